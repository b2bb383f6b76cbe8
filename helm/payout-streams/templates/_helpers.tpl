{{/* Names */}}
{{- define "payouts.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "payouts.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains (include "payouts.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "payouts.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "payouts.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "payouts.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "payouts.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Labels. (dict "root" $ "component" "worker") */}}
{{- define "payouts.instanceLabels" -}}
app.kubernetes.io/name: {{ include "payouts.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "payouts.selectorLabels" -}}
{{ include "payouts.instanceLabels" .root }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "payouts.labels" -}}
{{ include "payouts.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: payout-streams
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* The one table of topics, and the names on the cluster */}}
{{- define "payouts.group" -}}
{{- printf "%s%s" (default "" .Values.settings.PAYOUTS_TOPIC_PREFIX) (.Files.Get "files/topics.yaml" | fromYaml).group -}}
{{- end -}}

{{- define "payouts.callsVisa" -}}
{{- if or (has "submit" .) (has "retry" .) (has "compensate" .) -}}yes{{- end -}}
{{- end -}}

{{/* A number as it was written: Helm reads integers as floating point. */}}
{{- define "payouts.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}{{ printf "%.0f" . }}{{- else -}}{{ toString . }}{{- end -}}
{{- end -}}

{{/* Where the credentials for Kafka are: {"ca": Secret, "client": Secret, "certificate": key, "private": key} */}}
{{- define "payouts.kafkaFiles" -}}
{{- $kafka := .root.Values.secrets.kafka -}}
{{- $strimzi := .root.Values.strimzi -}}
{{- $ca := $kafka.caSecret -}}
{{- $client := $kafka.clientSecret -}}
{{- $certificate := $kafka.certificateKey -}}
{{- $private := $kafka.privateKeyKey -}}
{{- if and $strimzi.users.enabled (not $client) -}}
{{- $client = printf "%s-%s" (include "payouts.fullname" .root) .user -}}
{{- $certificate = "user.crt" -}}
{{- $private = "user.key" -}}
{{- end -}}
{{- if and $strimzi.users.enabled (not $ca) -}}
{{- $ca = printf "%s-cluster-ca-cert" $strimzi.cluster -}}
{{- end -}}
{{- dict "ca" $ca "client" $client "certificate" $certificate "private" $private | toJson -}}
{{- end -}}

{{/*
Environment, volumes and mounts of a container: (dict "root" $ "needs" (list "keys" "visa" …) "user" "worker"
"settingsSecret" name "settingsKey" key). What is secret is a file; only paths and open settings are variables.
*/}}
{{- define "payouts.env" -}}
{{- $values := .root.Values -}}
{{- $kafka := include "payouts.kafkaFiles" . | fromJson -}}
- name: PAYOUTS_SETTINGS_FILE
  value: /etc/payouts/settings/payouts.env
{{- range $name, $value := $values.settings }}
{{- if ne (toString $value) "" }}
- name: {{ $name }}
  value: {{ include "payouts.text" $value | quote }}
{{- end }}
{{- end }}
{{- if has "http" .needs }}
- name: PAYOUTS_HTTP_HOST
  value: 0.0.0.0
- name: PAYOUTS_HTTP_PORT
  value: "6066"
{{- end }}
{{- if has "keys" .needs }}
- name: PAYOUTS_KEYS_DIRECTORY
  value: /etc/payouts/keys
{{- end }}
{{- if and (has "policies" .needs) $values.policies.volume }}
- name: PAYOUTS_POLICIES_DIRECTORY
  value: /etc/payouts/policies
{{- end }}
{{- if has "kafka" .needs }}
{{- if $kafka.ca }}
- name: KAFKA_SSL_CA_PATH
  value: /etc/payouts/kafka/ca.crt
{{- end }}
{{- if $kafka.client }}
- name: KAFKA_SSL_CERTIFICATE_PATH
  value: /etc/payouts/kafka/client.crt
- name: KAFKA_SSL_KEY_PATH
  value: /etc/payouts/kafka/client.key
{{- end }}
{{- end }}
{{- if has "visa" .needs }}
{{- with $values.secrets.visa }}
- name: VISA_CERT_PATH
  value: /etc/payouts/visa/{{ .certificateKey }}
- name: VISA_KEY_PATH
  value: /etc/payouts/visa/{{ .privateKeyKey }}
- name: VISA_MLE_PRIVATE_KEY_PATH
  value: /etc/payouts/visa/{{ .messagePrivateKeyKey }}
{{- if .messageServerCertificateKey }}
- name: VISA_MLE_SERVER_CERTIFICATE_PATH
  value: /etc/payouts/visa/{{ .messageServerCertificateKey }}
{{- end }}
{{- if .nextMessagePrivateKeyKey }}
- name: VISA_MLE_NEXT_PRIVATE_KEY_PATH
  value: /etc/payouts/visa/{{ .nextMessagePrivateKeyKey }}
{{- end }}
{{- if .caKey }}
- name: VISA_CA_PATH
  value: /etc/payouts/visa/{{ .caKey }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "payouts.mounts" -}}
{{- $values := .root.Values -}}
{{- $kafka := include "payouts.kafkaFiles" . | fromJson -}}
- name: scratch
  mountPath: /var/lib/payouts
- name: temporary
  mountPath: /tmp
- name: settings
  mountPath: /etc/payouts/settings
  readOnly: true
{{- if has "keys" .needs }}
- name: keys
  mountPath: /etc/payouts/keys
  readOnly: true
{{- end }}
{{- if and (has "policies" .needs) $values.policies.volume }}
- name: policies
  mountPath: /etc/payouts/policies
  readOnly: true
{{- end }}
{{- if and (has "kafka" .needs) (or $kafka.ca $kafka.client) }}
- name: kafka
  mountPath: /etc/payouts/kafka
  readOnly: true
{{- end }}
{{- if has "visa" .needs }}
- name: visa
  mountPath: /etc/payouts/visa
  readOnly: true
{{- end }}
{{- if and (has "database" .needs) $values.secrets.database.caSecret }}
- name: database
  mountPath: /etc/payouts/database
  readOnly: true
{{- end }}
{{- end -}}

{{- define "payouts.volumes" -}}
{{- $values := .root.Values -}}
{{- $kafka := include "payouts.kafkaFiles" . | fromJson -}}
- name: scratch
  emptyDir: {sizeLimit: 64Mi}
- name: temporary
  emptyDir: {sizeLimit: 64Mi}
- name: settings
  secret:
    secretName: {{ default $values.secrets.settings.existingSecret .settingsSecret }}
    defaultMode: 0440
    items:
      - key: {{ default $values.secrets.settings.key .settingsKey }}
        path: payouts.env
{{- if has "keys" .needs }}
- name: keys
  secret:
    secretName: {{ $values.secrets.keys.existingSecret }}
    defaultMode: 0440
    # Whatever else the Secret has, above all dead_letter_private.jwk.json, no worker gets.
    items:
      {{- range list "sealing_keys.json" "content_keys.json" "party_private.jwks.json" "party_public.jwks.json" "dead_letter_public.jwk.json" }}
      - key: {{ . }}
        path: {{ . }}
      {{- end }}
{{- end }}
{{- if and (has "policies" .needs) $values.policies.volume }}
- name: policies
  {{- toYaml $values.policies.volume | nindent 2 }}
{{- end }}
{{- if and (has "kafka" .needs) (or $kafka.ca $kafka.client) }}
- name: kafka
  projected:
    defaultMode: 0440
    sources:
      {{- if $kafka.ca }}
      - secret:
          name: {{ $kafka.ca }}
          items:
            - key: {{ $values.secrets.kafka.caKey }}
              path: ca.crt
      {{- end }}
      {{- if $kafka.client }}
      - secret:
          name: {{ $kafka.client }}
          items:
            - key: {{ $kafka.certificate }}
              path: client.crt
            - key: {{ $kafka.private }}
              path: client.key
      {{- end }}
{{- end }}
{{- if has "visa" .needs }}
- name: visa
  secret:
    secretName: {{ $values.secrets.visa.existingSecret }}
    defaultMode: 0440
{{- end }}
{{- if and (has "database" .needs) $values.secrets.database.caSecret }}
- name: database
  secret:
    secretName: {{ $values.secrets.database.caSecret }}
    defaultMode: 0440
    items:
      - key: {{ $values.secrets.database.caKey }}
        path: ca.crt
{{- end }}
{{- end -}}

{{/* Security of pods and containers: the restricted profile of Kubernetes, and a file system that cannot be written. */}}
{{- define "payouts.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .Values.user }}
runAsGroup: {{ .Values.user }}
fsGroup: {{ .Values.user }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "payouts.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* What every pod has: (dict "root" $ "serviceAccount" bool) */}}
{{- define "payouts.podCommon" -}}
{{- $values := .root.Values -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- if .serviceAccount }}
serviceAccountName: {{ include "payouts.serviceAccountName" .root }}
{{- end }}
securityContext:
  {{- include "payouts.podSecurity" .root | nindent 2 }}
{{- with $values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The container's part that all share: (dict "root" $ "args" list "needs" list …as above) */}}
{{- define "payouts.container" -}}
image: {{ include "payouts.image" .root }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
args:
  {{- range .args }}
  - {{ . | quote }}
  {{- end }}
workingDir: /var/lib/payouts
env:
  {{- include "payouts.env" . | nindent 2 }}
securityContext:
  {{- include "payouts.containerSecurity" . | nindent 2 }}
volumeMounts:
  {{- include "payouts.mounts" . | nindent 2 }}
{{- end -}}
