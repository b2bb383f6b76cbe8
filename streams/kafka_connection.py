"""How confluent-kafka clients connect: commands, the lag reader, the audit. Faust's own is in `streams.kafka_app`."""

from streams.settings import Settings


def confluent_config(settings: Settings) -> dict[str, str]:
    """The same connection for confluent-kafka clients (lag, commands). Holds the password: never print it."""
    config = {
        "bootstrap.servers": settings.kafka_bootstrap_servers,
        "security.protocol": settings.kafka_security_protocol,
    }
    optional = {
        "ssl.ca.location": settings.kafka_ssl_ca_path,
        "ssl.certificate.location": settings.kafka_ssl_certificate_path,
        "ssl.key.location": settings.kafka_ssl_key_path,
    }
    config |= {name: str(value) for name, value in optional.items() if value is not None}
    if settings.kafka_security_protocol == "SASL_SSL":
        config["sasl.mechanism"] = settings.kafka_sasl_mechanism
        config["sasl.username"] = settings.kafka_sasl_username or ""
        config["sasl.password"] = (
            settings.kafka_sasl_password.get_secret_value() if settings.kafka_sasl_password else ""
        )
    return config
