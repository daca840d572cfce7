{{- define "lmdb-images.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "lmdb-images.labels" -}}
{{ include "lmdb-images.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "lmdb-images.selector" -}}
app.kubernetes.io/name: lmdb-images
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "lmdb-images.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
