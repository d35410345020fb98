{{/* Variables of a step. Arguments: root, values (of the job). */}}
{{- define "vireo.jobEnv" -}}
- { name: VIREO_HOME, value: /home/vireo }
- { name: HOME, value: /tmp }
- { name: VIREO_USER, value: {{ printf "%s@%s" (include "vireo.fullname" .root) .root.Release.Namespace | quote }} }
- { name: VIREO_ONLINE_STORE, value: {{ .root.Values.features.store }} }
{{- include "vireo.redisEnv" .root | nindent 0 }}
{{- include "vireo.eventEnv" .root | nindent 0 }}
{{- include "vireo.extraEnv" (dict "root" .root "values" .values) | nindent 0 }}
{{- end -}}

{{/*
A step of a job, a container. Arguments: root, name, command, values (of the job: resources, settings).
*/}}
{{- define "vireo.jobStep" -}}
- name: {{ .name }}
  {{- include "vireo.image" (dict "root" .root "role" "training") | nindent 2 }}
  securityContext:
    {{- toYaml .root.Values.containerSecurityContext | nindent 4 }}
  command:
    {{- toYaml .command | nindent 4 }}
  env:
    {{- include "vireo.env" (include "vireo.jobEnv" .) | nindent 4 }}
  {{- include "vireo.s3" .root | nindent 2 }}
  resources:
    {{- toYaml .values.resources | nindent 4 }}
  volumeMounts:
    - { name: home, mountPath: /home/vireo }
    - { name: features, mountPath: /home/vireo/features }
    - { name: tmp, mountPath: /tmp }
    {{- include "vireo.eventMounts" .root | nindent 4 }}
    {{- with .root.Values.jobs.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/* A CronJob. Arguments: root, component, values (of the job), steps: [{name, command}, …]. */}}
{{- define "vireo.cronJob" -}}
apiVersion: batch/v1
kind: CronJob
metadata:
  {{- include "vireo.metadata" . | nindent 2 }}
spec:
  schedule: {{ .values.schedule | quote }}
  {{- with .values.timeZone }}
  timeZone: {{ . }}
  {{- end }}
  suspend: {{ .values.suspend }}
  # Two at once would write the same folders.
  concurrencyPolicy: Forbid
  startingDeadlineSeconds: 3600
  successfulJobsHistoryLimit: 2
  failedJobsHistoryLimit: 3
  jobTemplate:
    spec:
      backoffLimit: {{ .values.backoffLimit }}
      activeDeadlineSeconds: {{ .values.activeDeadlineSeconds | int64 }}
      template:
        metadata:
          {{- include "vireo.podMetadata" . | nindent 10 }}
        spec:
          {{- include "vireo.podSpec" . | nindent 10 }}
          restartPolicy: Never
          {{- if gt (len .steps) 1 }}
          initContainers:
            {{- range initial .steps }}
            {{- include "vireo.jobStep" (merge (dict "root" $.root "values" $.values) .) | nindent 12 }}
            {{- end }}
          {{- end }}
          containers:
            {{- include "vireo.jobStep" (merge (dict "root" .root "values" .values) (last .steps)) | nindent 12 }}
          volumes:
            - name: home
              persistentVolumeClaim: { claimName: {{ include "vireo.homeClaim" .root }} }
            - name: features
              persistentVolumeClaim: { claimName: {{ include "vireo.featuresClaim" .root }} }
            - name: tmp
              emptyDir: {}
            {{- include "vireo.eventVolumes" .root | nindent 12 }}
            {{- with .root.Values.jobs.extraVolumes }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
{{- end -}}
