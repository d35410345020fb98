{{/* Names, labels and images. */}}

{{- define "vireo.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels by which pods are selected. Arguments: root, component. */}}
{{- define "vireo.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Labels of an object. Arguments: root, component. */}}
{{- define "vireo.labels" -}}
{{ include "vireo.selector" . }}
app.kubernetes.io/part-of: vireo
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{/* Name and labels of an object. Arguments: root, component. */}}
{{- define "vireo.metadata" -}}
name: {{ include "vireo.fullname" .root }}-{{ .component }}
labels:
  {{- include "vireo.labels" . | nindent 2 }}
{{- end -}}

{{/*
Arguments: root, role (whose image it is), and tag, which wins unless it is empty. A repository with a tag
or digest of its own is another one's image.
*/}}
{{- define "vireo.image" -}}
{{- $values := .root.Values.images -}}
{{- $name := printf "%s%s" $values.registry (get $values.repositories .role) -}}
{{- $digest := get $values.digests .role -}}
image: {{ if regexMatch "[:@][^/]+$" (get $values.repositories .role) }}{{ get $values.repositories .role }}{{ else if and $digest (not .tag) }}{{ $name }}@{{ $digest }}{{ else }}{{ $name }}:{{ .tag | default $values.tag | default .root.Chart.AppVersion }}{{ end }}
imagePullPolicy: {{ $values.pullPolicy }}
{{- end -}}

{{/* Kinds of pods that make slates in the layout, as JSON. Argument: the root. */}}
{{- define "vireo.kinds" -}}
{{- $separate := list "gateway" "candidate" "ranking" -}}
{{- get (dict "separate" $separate "together" (list "slate") "both" (append $separate "slate")) .Values.layout | toJson -}}
{{- end -}}

{{- define "vireo.controlTarget" -}}
{{ include "vireo.fullname" . }}-control:8104
{{- end -}}

{{- define "vireo.featuresClaim" -}}
{{ .Values.features.existingClaim | default (printf "%s-features" (include "vireo.fullname" .)) }}
{{- end -}}

{{- define "vireo.homeClaim" -}}
{{ .Values.jobs.home.existingClaim | default (printf "%s-home" (include "vireo.fullname" .)) }}
{{- end -}}

{{/* Whether `helm test` can ask for a slate: a token is sent by TLS only. Argument: the root. */}}
{{- define "vireo.testable" -}}
{{- $tokens := or .Values.tokens.jwksUrl .Values.tokens.jwks.existingConfigMap }}
{{- if or (not $tokens) (and .Values.tls.enabled .Values.test.token.existingSecret) }}true{{ end }}
{{- end -}}
