{{- define "fovea.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "fovea.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "fovea.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "fovea.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "fovea.selectorLabels" -}}
app.kubernetes.io/name: {{ include "fovea.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "fovea.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_") }}
app.kubernetes.io/name: {{ include "fovea.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: fovea
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "fovea.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "fovea.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name: name the existing ServiceAccount, or set serviceAccount.create" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "fovea.image" -}}
{{- with .Values.image }}
{{- if .digest }}
{{- printf "%s@%s" .repository .digest }}
{{- else }}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) }}
{{- end }}
{{- end }}
{{- end }}

{{- /* The name that the operator gives to the ServiceAccount of runs, and to its binding, in each tenant's namespace. */}}
{{- define "fovea.runName" -}}
fovea-run
{{- end }}

{{- /* The operator's settings (fovea_operator/settings.py) as environment variables; operator.settings has the last word. */}}
{{- define "fovea.settings" -}}
{{- $settings := dict
  "namespaces" (join "," .Values.operator.namespaces)
  "workers" .Values.operator.workers
  "log_level" .Values.operator.logLevel
  "lease_name" (include "fovea.leaseName" .)
  "lease_namespace" .Release.Namespace
  "cluster_role" (include "fovea.runName" .)
  "trainer_image" (default (printf "fovea/trainer:%s" .Chart.AppVersion) .Values.defaults.trainerImage)
  "serving_image" (default (printf "fovea/serving:%s" .Chart.AppVersion) .Values.defaults.servingImage)
  "triton_image" (default (printf "fovea/triton:%s" .Chart.AppVersion) .Values.defaults.tritonImage)
  "tensorrt_image" (default "" .Values.defaults.tensorrtImage)
  "image_pull_policy" .Values.defaults.imagePullPolicy
  "ray_version" .Values.defaults.rayVersion
  "queue_name" (default "" .Values.defaults.queueName)
  "elastic_sweeps" (default false .Values.operator.elasticSweeps)
  "store" .Values.defaults.store.uri
  "store_secret" .Values.defaults.store.secretName
}}
{{- range $name, $value := merge (dict) .Values.operator.settings $settings }}
- {name: FOVEA_OPERATOR_{{ upper $name }}, value: {{ kindIs "string" $value | ternary $value (toJson $value) | quote }}}
{{- end }}
{{- end }}

{{- define "fovea.leaseName" -}}
{{ include "fovea.fullname" . }}-operator
{{- end }}
