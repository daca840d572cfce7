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
