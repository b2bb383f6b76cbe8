"""Ask for one payout, with stock confluent-kafka and jwcrypto: nothing of payout-streams is imported here."""

import argparse
import json
import os
from datetime import UTC, datetime
from pathlib import Path

from confluent_kafka import KafkaError, Message, Producer
from confluent_kafka.schema_registry import SchemaRegistryClient, topic_subject_name_strategy
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from jwcrypto import jwe, jwk

KAFKA = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092")
REGISTRY = os.environ.get("SCHEMA_REGISTRY_URL", "http://127.0.0.1:8081")
KEYS = Path(os.environ.get("PARTY_KEYS_FILE", "party_public.jwks.json"))
TOPIC = os.environ.get("PAYOUTS_TOPIC_PREFIX", "") + "payout_requests"
# The schema is whatever the registry has under payout_requests-value: the processor registers, we never do.
SERIALIZER = {
    "auto.register.schemas": False,
    "use.latest.version": True,
    "subject.name.strategy": topic_subject_name_strategy,
}


def encrypted(document: dict) -> str:
    """Personal data travels only like this: a compact JWE to the processor's newest published key."""
    key = jwk.JWK(**json.loads(KEYS.read_text())["keys"][0])
    header = {"alg": "RSA-OAEP-256", "enc": "A256GCM", "kid": key["kid"]}
    return jwe.JWE(json.dumps(document).encode(), json.dumps(header), recipient=key).serialize(compact=True)


def request(payout_id: str, amount_minor: int, token: str) -> dict:
    """One USD payout from our own balance to a card that is known by its token."""
    address = {"line1": "1 Main Street", "city": "Foster City", "state": "CA", "postal_code": "94404", "country": "US"}
    sender, recipient = ({"name": name, "address": address} for name in ("Acme Marketplace", "Rosalind Example"))
    return {
        "payout_id": payout_id,
        "originator_id": "acme-marketplace",
        "funding": {
            "kind": "INTERNAL",
            "internal": {"debit_confirmed": True, "confirmation_ref": f"debit-of-{payout_id}"},
        },
        "destination": {"kind": "CARD", "card": {"token_reference": token}},
        "amount": {"amount_minor": amount_minor, "currency": "USD"},
        "corridor": {
            "source_country": "US",
            "target_country": "US",
            "source_currency": "USD",
            "target_currency": "USD",
        },
        "personal_data": encrypted({"sender": sender, "recipient": recipient}),
        "requested_at": datetime.now(UTC),
        "correlation_id": f"order-{payout_id}",
    }


def confirmed(error: KafkaError | None, message: Message) -> None:
    """Only what the broker confirmed is accepted; after anything else send the same request again."""
    if error is not None:
        raise SystemExit(f"not accepted, send it again: {error}")
    print(json.dumps({"topic": message.topic(), "partition": message.partition(), "offset": message.offset()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("payout_id", help="your own, unique for ever: 8 to 64 of A-Z a-z 0-9 _ -")
    parser.add_argument("--amount-minor", type=int, default=2500, help="in cents (default 2500)")
    parser.add_argument("--token", default="tok_approve_1", help="the recipient's card token")
    options = parser.parse_args()
    serialize = AvroSerializer(SchemaRegistryClient({"url": REGISTRY}), conf=SERIALIZER)
    record = request(options.payout_id, options.amount_minor, options.token)
    value = serialize(record, SerializationContext(TOPIC, MessageField.VALUE))
    producer = Producer({"bootstrap.servers": KAFKA, "acks": "all", "enable.idempotence": True})
    producer.produce(TOPIC, value, key=options.payout_id, on_delivery=confirmed)
    if producer.flush(30):
        raise SystemExit("no confirmation from Kafka in 30 s: send the same request again, it is paid once")


if __name__ == "__main__":
    main()
