{{/* Envoy: its configuration and its container. */}}

{{/*
The bootstrap: that of `vireo up`, with listeners for metrics and, at the edge, for draining, and with TLS to
the control plane, whose cluster is the last in it. Arguments: root, and inner: whether it is a gateway's.
*/}}
{{- define "vireo.envoyBootstrap" -}}
{{- $text := .root.Files.Get "files/bootstrap.yaml" }}
{{- $control := printf "%s-control" (include "vireo.fullname" .root) }}
{{- $values := dict "'${node}'" "unnamed" "'${admin_port}'" "8100" "'${control_host}'" $control "'${control_port}'" "8104" "'${drain_seconds}'" (toString .root.Values.edge.drainSeconds) }}
{{- $own := print (ternary "" (.root.Files.Get "files/drain.yaml") .inner) (.root.Files.Get "files/metrics.yaml") }}
{{- $text = replace "static_resources:\n  clusters:\n" (print "static_resources:\n  listeners:\n" $own) $text }}
{{- range $placeholder, $value := $values }}
{{- $text = replace $placeholder $value $text }}
{{- end }}
{{- if .root.Values.tls.enabled }}
{{- $text = print (trimSuffix "\n" $text) "\n" (.root.Files.Get "files/control_tls.yaml") }}
{{- end }}
{{- $text }}
{{- end -}}

{{/*
When an Envoy may be called: it has its configuration from the control plane, and its threads answer.
*/}}
{{- define "vireo.envoyReady" -}}
httpGet: { path: /ready, port: 8080{{ if .Values.tls.enabled }}, scheme: HTTPS{{ end }} }
periodSeconds: 2
timeoutSeconds: 2
{{- end -}}

{{/*
The container of an Envoy without its name and its probe of readiness. Arguments: root, values (threads,
resources), and roles of certificates.
*/}}
{{- define "vireo.envoy" -}}
{{ include "vireo.image" (dict "root" .root "role" "envoy") }}
securityContext:
  {{- toYaml .root.Values.containerSecurityContext | nindent 2 }}
command: [envoy]
args:
  - --config-path
  - /etc/envoy/envoy.yaml
  - --service-node
  - $(POD_NAME)
  - --concurrency
  - {{ .values.threads | quote }}
  - --disable-hot-restart
  - --drain-time-s
  - "10"
  - --log-level
  - warning
  - --component-log-level
  - upstream:error
env:
  - name: POD_NAME
    valueFrom: { fieldRef: { fieldPath: metadata.name } }
resources:
  {{- toYaml .values.resources | nindent 2 }}
# Without a control plane Envoy waits for it for half a minute, and then goes on without a configuration.
livenessProbe:
  httpGet: { path: /live, port: 9080 }
  initialDelaySeconds: 60
  timeoutSeconds: 3
  failureThreshold: 6
volumeMounts:
  - { name: envoy, mountPath: /etc/envoy, readOnly: true }
  {{- include "vireo.mounts" . | nindent 2 }}
{{- end -}}

{{/* Arguments: root, and inner, which files' keys begin with: `inner-` at a gateway. */}}
{{- define "vireo.envoyVolume" -}}
- name: envoy
  projected:
    sources:
      - configMap:
          name: {{ include "vireo.fullname" .root }}-envoy
          items:
            - { key: {{ .inner }}envoy.yaml, path: envoy.yaml }
            {{- if .root.Values.tls.enabled }}
            - { key: secret-{{ .inner }}edge.yaml, path: secrets/edge.yaml }
            {{- range list "envoy" "authority" }}
            - { key: secret-{{ . }}.yaml, path: secrets/{{ . }}.yaml }
            {{- end }}
            {{- end }}
{{- end -}}
