{{/* What the pods of all components have in common. */}}

{{/*
Top of a pod's spec. Arguments: root, component, values (of the component: scheduling), account, the
component whose service account the pod has, by default that of pods, and moves: whether the pod is made
elsewhere soon if its node is lost.
*/}}
{{- define "vireo.podSpec" -}}
serviceAccountName: {{ include "vireo.fullname" .root }}-{{ .account | default "pods" }}
automountServiceAccountToken: {{ eq .component "control" }}
# Variables that Kubernetes sets for Services, such as VIREO_EDGE_PORT for vireo-edge, would be read as
# settings.
enableServiceLinks: false
securityContext:
  {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if or .moves .values.tolerations }}
tolerations:
  {{- with .values.tolerations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- if .moves }}
  # By default it takes Kubernetes 300 s.
  {{- range list "not-ready" "unreachable" }}
  - { key: node.kubernetes.io/{{ . }}, operator: Exists, effect: NoExecute, tolerationSeconds: {{ $.root.Values.lostNodeSeconds }} }
  {{- end }}
  {{- end }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Spread over zones and nodes. Arguments: root, component, and shared: by several Deployments. */}}
{{- define "vireo.spread" -}}
{{- with .root.Values.topologySpread }}
topologySpreadConstraints:
  {{- range . }}
  - topologyKey: {{ .topologyKey }}
    maxSkew: {{ .maxSkew }}
    whenUnsatisfiable: {{ .whenUnsatisfiable }}
    labelSelector:
      matchLabels:
        {{- include "vireo.selector" $ | nindent 8 }}
    # Otherwise the nodes of a lost zone would count, as the ones with the fewest pods.
    nodeTaintsPolicy: Honor
    {{- if not $.shared }}
    # Otherwise the pods of the version before would count while a new one is rolled out.
    matchLabelKeys: [pod-template-hash]
    {{- end }}
  {{- end }}
{{- end }}
{{- end -}}

{{/*
Metadata of a Deployment that may be scaled, and its number of pods. Kubernetes makes the number one if an
upgrade or a rollback leaves one out that was there. So where they were scaled from the first it is always
left out, which an annotation remembers; where they were not, it is as many as there are. Where the cluster
can't be asked (`helm template`), it is left out. Arguments: root, component, values.
*/}}
{{- define "vireo.scalable" -}}
{{- $live := lookup "apps/v1" "Deployment" .root.Release.Namespace (printf "%s-%s" (include "vireo.fullname" .root) .component) -}}
{{- $numbered := or (not .values.autoscaling.enabled) (and $live (not (dig "metadata" "annotations" "vireo/replicas" "" $live))) -}}
metadata:
  {{- include "vireo.metadata" . | nindent 2 }}
  {{- if not $numbered }}
  annotations: { vireo/replicas: autoscaler }
  {{- end }}
spec:
  {{- if not .values.autoscaling.enabled }}
  replicas: {{ .values.replicas }}
  {{- else if $numbered }}
  replicas: {{ max $live.spec.replicas .values.autoscaling.minReplicas }}
  {{- end }}
{{- end -}}

{{- define "vireo.strategy" -}}
strategy: { rollingUpdate: { maxSurge: {{ .Values.maxSurge }}, maxUnavailable: 0 } }
{{- end -}}

{{/*
Metadata of a pod. Arguments: root, component, values, envoy, whether it has one, and its pool or
partition, if it has one.
*/}}
{{- define "vireo.podMetadata" -}}
labels:
  {{- include "vireo.labels" . | nindent 2 }}
  {{- with .pool }}
  vireo/pool: {{ . }}
  {{- end }}
  {{- with .partition }}
  vireo/partition: {{ . | quote }}
  {{- end }}
  {{- with .values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- if or .envoy .values.podAnnotations }}
annotations:
  {{- if .envoy }}
  checksum/envoy: {{ include "vireo.envoyBootstrap" (dict "root" .root "inner" false) | sha256sum }}
  {{- end }}
  {{- with .values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Variables of every server process. Arguments: root, role, port. */}}
{{- define "vireo.serverEnv" -}}
- name: VIREO_POD_NAME
  valueFrom: { fieldRef: { fieldPath: metadata.name } }
- { name: VIREO_HOST, value: 0.0.0.0 }
- { name: VIREO_PORT, value: {{ .port | quote }} }
- { name: VIREO_METRICS_HOST, value: 0.0.0.0 }
- { name: VIREO_METRICS_PORT, value: {{ add 1000 .port | quote }} }
# An arena for each of gRPC's threads would take 30 MB more.
- { name: GLIBC_TUNABLES, value: "glibc.malloc.arena_max=1:glibc.malloc.mmap_threshold=1048576:glibc.malloc.trim_threshold=8388608" }
# A process has one core: its libraries' threads would only compete for it.
- { name: OMP_NUM_THREADS, value: "1" }
{{- if .root.Values.tls.enabled }}
- { name: VIREO_TLS_CERTIFICATE, value: /tls/{{ .role }}/tls.crt }
- { name: VIREO_TLS_KEY, value: /tls/{{ .role }}/tls.key }
- { name: VIREO_TLS_CA, value: /tls/{{ .role }}/ca.crt }
{{- end }}
{{- with .root.Values.tracing.otlpEndpoint }}
- { name: VIREO_OTLP_ENDPOINT, value: {{ . | quote }} }
{{- end }}
{{- end -}}

{{/* Variables of a process that follows a channel of releases. Arguments: root, channel. */}}
{{- define "vireo.followerEnv" -}}
- { name: VIREO_CONTROL_TARGET, value: {{ include "vireo.controlTarget" .root | quote }} }
- { name: VIREO_CHANNEL, value: {{ .channel }} }
{{- end -}}

{{/*
A list of variables with each name once, as the API demands: the last one wins. Argument: the list, as
YAML.
*/}}
{{- define "vireo.env" -}}
{{- $names := list }}
{{- $found := dict }}
{{- range fromYamlArray . }}
{{- if not (hasKey $found .name) }}
{{- $names = append $names .name }}
{{- end }}
{{- $_ := set $found .name . }}
{{- end }}
{{- range $names }}
- {{ get $found . | toYaml | nindent 2 | trim }}
{{- end }}
{{- end -}}

{{/*
Variables that values name; they come last. Those of the component win, false and 0 too: `merge` would
replace these. Arguments: root, values.
*/}}
{{- define "vireo.extraEnv" -}}
{{- range $name, $value := mergeOverwrite (dict) .root.Values.settings (.values.settings | default dict) }}
{{- /* To Helm all numbers are floats, and large ones would be 2.1e+10. */}}
{{- if and (kindIs "float64" $value) (eq $value (floor $value)) }}
{{- $value = int64 $value }}
{{- end }}
- { name: {{ $name }}, value: {{ $value | quote }} }
{{- end }}
{{- with .values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Where Redis is, of what reads or writes features. Argument: the root. */}}
{{- define "vireo.redisEnv" -}}
{{- if eq .Values.features.store "redis" }}
- name: VIREO_REDIS_URL
  valueFrom: { secretKeyRef: { name: {{ .Values.redis.existingSecret }}, key: {{ .Values.redis.key }} } }
{{- end }}
{{- end -}}

{{/* Variables of what reads or writes the log of events. Argument: the root. */}}
{{- define "vireo.eventEnv" -}}
{{- if .Values.events.enabled }}
{{- with .Values.events.nats.url }}
- { name: VIREO_NATS_URL, value: {{ . | quote }} }
{{- end }}
{{- with .Values.events.nats.token.existingSecret }}
- name: VIREO_NATS_TOKEN
  valueFrom: { secretKeyRef: { name: {{ . }}, key: {{ $.Values.events.nats.token.key }} } }
{{- end }}
{{- if .Values.events.nats.authority.existingSecret }}
- { name: VIREO_NATS_CA, value: /nats/{{ .Values.events.nats.authority.key }} }
{{- end }}
- { name: VIREO_EVENT_PARTITIONS, value: {{ .Values.events.partitions | quote }} }
- { name: VIREO_EVENT_REPLICAS, value: {{ .Values.events.replicas | quote }} }
- { name: VIREO_EVENT_RETENTION, value: {{ .Values.events.retentionSeconds | int64 | quote }} }
- { name: VIREO_EVENT_MAX_BYTES, value: {{ .Values.events.maxBytes | int64 | quote }} }
- { name: VIREO_SLATE_MAX_BYTES, value: {{ .Values.events.slates.maxBytes | int64 | quote }} }
{{- end }}
{{- end -}}

{{- define "vireo.eventMounts" -}}
{{- if and .Values.events.enabled .Values.events.nats.authority.existingSecret }}
- { name: nats, mountPath: /nats, readOnly: true }
{{- end }}
{{- end -}}

{{- define "vireo.eventVolumes" -}}
{{- if .Values.events.enabled }}
{{- with .Values.events.nats.authority.existingSecret }}
- { name: nats, secret: { secretName: {{ . }} } }
{{- end }}
{{- end }}
{{- end -}}

{{/* Variables of S3. Argument: the root. */}}
{{- define "vireo.s3" -}}
envFrom:
  - secretRef: { name: {{ .Values.s3.existingSecret }} }
{{- end -}}

{{/* Ports of a server process. Argument: its port. */}}
{{- define "vireo.ports" -}}
- { name: grpc, containerPort: {{ . }} }
- { name: metrics, containerPort: {{ add 1000 . }} }
{{- end -}}

{{/*
Probes of a server process. Kubernetes' gRPC probes have no certificate, so that with TLS the port of
metrics is asked instead. Arguments: root, port, service, and startSeconds, within which the process
must serve.
*/}}
{{- define "vireo.probes" -}}
startupProbe:
  {{- if .root.Values.tls.enabled }}
  httpGet: { path: /ready, port: metrics }
  {{- else }}
  grpc: { port: {{ .port }} }
  {{- end }}
  periodSeconds: 2
  failureThreshold: {{ div .startSeconds 2 }}
readinessProbe:
  {{- if .root.Values.tls.enabled }}
  httpGet: { path: /ready, port: metrics }
  {{- else }}
  grpc: { port: {{ .port }}{{ with .service }}, service: {{ . }}{{ end }} }
  {{- end }}
  periodSeconds: 2
# A pod that hangs gets no traffic long before this restarts it.
livenessProbe:
  {{- if .root.Values.tls.enabled }}
  httpGet: { path: /live, port: metrics }
  {{- else }}
  grpc: { port: {{ .port }} }
  {{- end }}
  timeoutSeconds: 3
  failureThreshold: 6
{{- end -}}

{{/* Folders of every container: its root is read-only. Arguments: root, and roles of certificates. */}}
{{- define "vireo.mounts" -}}
- { name: tmp, mountPath: /tmp }
{{- with .root.Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- if .root.Values.tls.enabled }}
{{- range .roles }}
- { name: tls-{{ . }}, mountPath: /tls/{{ . }}, readOnly: true }
{{- end }}
{{- end }}
{{- end -}}

{{- define "vireo.volumes" -}}
- name: tmp
  emptyDir: {{ .tmp | default "{ sizeLimit: 1Gi }" }}
{{- with .root.Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- if .root.Values.tls.enabled }}
{{- range .roles }}
- name: tls-{{ . }}
  secret: { secretName: {{ get $.root.Values.tls.secrets . }}, defaultMode: 0440 }
{{- end }}
{{- end }}
{{- end -}}
