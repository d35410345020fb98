{{/* Envoy: its configuration and its container. */}}

{{/*
The bootstrap: that of `vireo up`, with a listener for metrics, and with TLS to the control plane, whose
cluster is the last in it.
*/}}
{{- define "vireo.envoyBootstrap" -}}
{{- $text := .Files.Get "files/bootstrap.yaml" }}
{{- $control := printf "%s-control" (include "vireo.fullname" .) }}
{{- $values := dict "'${node}'" "unnamed" "'${admin_port}'" "8100" "'${control_host}'" $control "'${control_port}'" "8104" }}
{{- range $placeholder, $value := $values }}
{{- $text = replace $placeholder $value $text }}
{{- end }}
{{- $text = replace "static_resources:\n  clusters:\n" (printf "static_resources:\n%s" (.Files.Get "files/metrics.yaml")) $text }}
{{- if .Values.tls.enabled }}
{{- $text = print (trimSuffix "\n" $text) "\n" (.Files.Get "files/control_tls.yaml") }}
{{- end }}
{{- $text }}
{{- end -}}

{{/*
The container of an Envoy without its name and probes. Arguments: root, values (threads, resources).
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
volumeMounts:
  - { name: envoy, mountPath: /etc/envoy, readOnly: true }
  {{- include "vireo.mounts" (dict "root" .root "roles" (list "edge" "envoy")) | nindent 2 }}
{{- end -}}

{{- define "vireo.envoyVolume" -}}
- name: envoy
  projected:
    sources:
      - configMap:
          name: {{ include "vireo.fullname" . }}-envoy
          items:
            - { key: envoy.yaml, path: envoy.yaml }
            {{- if .Values.tls.enabled }}
            {{- range list "edge" "envoy" "authority" }}
            - { key: secret-{{ . }}.yaml, path: secrets/{{ . }}.yaml }
            {{- end }}
            {{- end }}
{{- end -}}
