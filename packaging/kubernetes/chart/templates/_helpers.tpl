{{/* The labels by which the pods are selected. */}}
{{- define "lmdb-images.selector" -}}
app.kubernetes.io/name: lmdb-images
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "lmdb-images.labels" -}}
{{ include "lmdb-images.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "lmdb-images.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* Where metrics listen, without the port. "exposed:" says that the address is not a loopback one; networkPolicy guards it. */}}
{{- define "lmdb-images.listen" -}}
exposed:{{ if eq .Values.metrics.listen "::" }}[::]{{ else }}{{ .Values.metrics.listen }}{{ end }}
{{- end }}

{{/* How Kubernetes asks whether the daemon serves, and whether it answers. Without metrics there is no port to ask at. */}}
{{- define "lmdb-images.health" -}}
{{- if .Values.metrics.enabled -}}
httpGet:
  path: /health
  port: metrics
{{- else -}}
exec:
  command: [/usr/bin/lmdb-images, health, --state={{ .Values.node.sockets }}]
{{- end }}
{{- end }}

{{- define "lmdb-images.alive" -}}
{{- if .Values.metrics.enabled -}}
httpGet:
  path: /alive
  port: metrics
{{- else -}}
exec:
  command: [/usr/bin/lmdb-images, health, --alive, --state={{ .Values.node.sockets }}]
{{- end }}
{{- end }}
