{{/* Everything that forbids an installation, one line each; said all at once. */}}
{{- define "payouts.problems" -}}
{{- $values := .Values -}}
{{- $settings := $values.settings -}}
{{- $table := .Files.Get "files/topics.yaml" | fromYaml -}}
{{- $production := ne (default "production" $settings.PAYOUTS_PROFILE) "test" -}}
{{- $scaled := $values.autoscaling.enabled -}}
{{- if not $settings.KAFKA_BOOTSTRAP_SERVERS }}
- settings.KAFKA_BOOTSTRAP_SERVERS is empty: name the brokers, host:port,host:port.
{{- end }}
{{- if and $production (eq (default "PLAINTEXT" $settings.KAFKA_SECURITY_PROTOCOL) "PLAINTEXT") }}
- settings.KAFKA_SECURITY_PROTOCOL is PLAINTEXT: production needs SSL or SASL_SSL.
{{- end }}
{{- $run := list -}}
{{- $names := list -}}
{{- range $set := $values.workers }}
{{- if has $set.name $names }}
- workers: two sets are named {{ $set.name }}.
{{- end }}
{{- $names = append $names $set.name -}}
{{- $run = concat $run $set.agents -}}
{{- $min := default $values.autoscaling.minReplicas $set.minReplicas -}}
{{- $max := default $values.autoscaling.maxReplicas $set.maxReplicas -}}
{{- if and $scaled (gt (int $min) (int $max)) }}
- workers: {{ $set.name }} has minReplicas {{ $min }} above maxReplicas {{ $max }}.
{{- end }}
{{- if and $scaled (gt (int $values.autoscaling.fallbackReplicas) (int $max)) }}
- autoscaling.fallbackReplicas {{ $values.autoscaling.fallbackReplicas }} is above maxReplicas {{ $max }} of {{ $set.name }}.
{{- end }}
{{- end }}
{{- range $agent := $table.agents }}
{{- if and $values.requireAllAgents (not (has $agent $run)) }}
- workers: no set runs the agent {{ $agent }}: its payouts would wait for ever (requireAllAgents).
{{- end }}
{{- end }}
{{- range $topic := $table.topics }}
{{- $members := 0 -}}
{{- range $set := $values.workers -}}
{{- $reads := false -}}
{{- range $agent := $topic.agents -}}{{- if has $agent $set.agents -}}{{- $reads = true -}}{{- end -}}{{- end -}}
{{- if $reads -}}
{{- $most := ternary (default $values.autoscaling.maxReplicas $set.maxReplicas) $set.replicas $scaled -}}
{{- $members = add $members $most -}}
{{- end -}}
{{- end -}}
{{- if gt (int $members) (int $topic.partitions) }}
- workers: up to {{ $members }} workers would share the {{ $topic.partitions }} partitions of {{ $topic.name }}: the others stay idle; lower {{ ternary "maxReplicas" "replicas" $scaled }}.
{{- end }}
{{- end }}
{{- if or (include "payouts.callsVisa" $run) (and $values.reconciliation.enabled $values.reconciliation.visaReport) }}
{{- if not $settings.VISA_BASE_URL }}
- settings.VISA_BASE_URL is empty: whoever calls Visa needs it.
{{- else if and $production (not (hasPrefix "https://" $settings.VISA_BASE_URL)) }}
- settings.VISA_BASE_URL must be https.
{{- end }}
{{- if not $settings.VISA_MLE_KEY_ID }}
- settings.VISA_MLE_KEY_ID is empty: whoever calls Visa needs it.
{{- end }}
{{- if and $settings.VISA_JWKS_URL $values.secrets.visa.messageServerCertificateKey }}
- settings.VISA_JWKS_URL and secrets.visa.messageServerCertificateKey both name Visa's key: set only one.
{{- end }}
{{- if not (or $settings.VISA_JWKS_URL $values.secrets.visa.messageServerCertificateKey) }}
- settings.VISA_JWKS_URL or secrets.visa.messageServerCertificateKey must name Visa's key.
{{- end }}
{{- if ne (empty $settings.VISA_MLE_NEXT_KEY_ID) (empty $values.secrets.visa.nextMessagePrivateKeyKey) }}
- settings.VISA_MLE_NEXT_KEY_ID and secrets.visa.nextMessagePrivateKeyKey belong together: set both or none.
{{- end }}
{{- end }}
{{- if le (float64 $values.terminationGracePeriodSeconds) (float64 (default 60 $settings.PAYOUTS_LEASE_SECONDS)) }}
- terminationGracePeriodSeconds must be longer than settings.PAYOUTS_LEASE_SECONDS.
{{- end }}
{{- if and (or $values.strimzi.topics.enabled $values.strimzi.users.enabled) (not $values.strimzi.cluster) }}
- strimzi.cluster is empty: name the Kafka resource.
{{- end }}
{{- if and $values.strimzi.topics.enabled $values.jobs.topics.enabled }}
- jobs.topics and strimzi.topics both create topics: enable only one.
{{- end }}
{{- if and $values.strimzi.users.enabled (ne (default "" $settings.KAFKA_SECURITY_PROTOCOL) "SSL") }}
- strimzi.users are client certificates: settings.KAFKA_SECURITY_PROTOCOL must be SSL.
{{- end }}
{{- if and $values.jobs.roles.enabled (not $values.jobs.migrate.existingSecret) }}
- jobs.roles needs jobs.migrate.existingSecret: only the tables' owner gives roles.
{{- end }}
{{- if and $values.reconciliation.enabled $values.jobs.roles.enabled (not $values.reconciliation.existingSecret) }}
- reconciliation needs reconciliation.existingSecret with jobs.roles: a worker's login may not record what was found.
{{- end }}
{{- if and (eq (default "off" $settings.PAYOUTS_TRACING) "otlp") (not $settings.PAYOUTS_TRACING_ENDPOINT) }}
- settings.PAYOUTS_TRACING_ENDPOINT is empty: name the collector's address for traces.
{{- end }}
{{- if and $values.jobs.schemas.enabled (not $settings.SCHEMA_REGISTRY_URL) }}
- jobs.schemas needs settings.SCHEMA_REGISTRY_URL.
{{- end }}
{{- if and $scaled (eq (default "" $settings.KAFKA_SECURITY_PROTOCOL) "SASL_SSL") (not $values.autoscaling.saslSecret) }}
- autoscaling.saslSecret is empty: KEDA logs in with user and password, too.
{{- end }}
{{- if and $values.autoscaling.pausedReplicas (not $scaled) }}
- autoscaling.pausedReplicas does nothing while autoscaling is off: set replicas.
{{- end }}
{{- if $values.networkPolicy.enabled }}
{{- range $broker := splitList "," (default "" $settings.KAFKA_BOOTSTRAP_SERVERS) }}
{{- $port := last (splitList ":" (trim $broker)) -}}
{{- if and (trim $broker) (not (has $port (include "payouts.ports" $values.networkPolicy.kafka.ports | fromJsonArray))) }}
- networkPolicy.kafka.ports lacks {{ $port }} of {{ trim $broker }}: workers could not reach it.
{{- end }}
{{- end }}
{{- range $name, $ports := dict "VISA_BASE_URL" $values.networkPolicy.visa.ports "VISA_JWKS_URL" $values.networkPolicy.visa.ports "SCHEMA_REGISTRY_URL" $values.networkPolicy.registry.ports "PAYOUTS_TRACING_ENDPOINT" $values.networkPolicy.tracing.ports }}
{{- $address := get $settings $name -}}
{{- if $address -}}
{{- $parts := urlParse $address -}}
{{- $written := regexFind ":[0-9]+$" $parts.host -}}
{{- $port := ternary (trimPrefix ":" $written) (ternary "443" "80" (eq $parts.scheme "https")) (ne $written "") -}}
{{- if not (has $port (include "payouts.ports" $ports | fromJsonArray)) }}
- networkPolicy lacks port {{ $port }} of settings.{{ $name }}: workers could not reach it.
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Ports as texts, to be compared with those of addresses. */}}
{{- define "payouts.ports" -}}
{{- $ports := list -}}
{{- range . -}}{{- $ports = append $ports (printf "%d" (int .)) -}}{{- end -}}
{{- toJson $ports -}}
{{- end -}}
