"""Give back what unpaid payouts had captured, and confirm it: stock confluent-kafka, nothing of payout-streams."""

import argparse
import json
import os
from datetime import UTC, datetime

from confluent_kafka import Consumer, KafkaError, Message, Producer
from confluent_kafka.schema_registry import SchemaRegistryClient, topic_subject_name_strategy
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

KAFKA = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092")
REGISTRY = os.environ.get("SCHEMA_REGISTRY_URL", "http://127.0.0.1:8081")
PREFIX = os.environ.get("PAYOUTS_TOPIC_PREFIX", "")
NEEDED = PREFIX + "payout_failed_requires_compensation"
CONFIRMED = PREFIX + "payout_compensation_confirmations"
BY_TOPIC = {"subject.name.strategy": topic_subject_name_strategy}


def give_back(event: dict) -> str:
    """Release the hold or refund in your own books, once for each compensation_id; returns your own reference."""
    return f"released-{event['funding_reference']}"


def confirmation(event: dict, reference: str) -> dict:
    """What makes a compensation of executor ORIGINATOR end COMPENSATED; outcome REFUSED calls a person."""
    same = {name: event[name] for name in ("compensation_id", "payout_id", "originator_id")}
    done = {"confirmation_reference": reference, "outcome": "COMPLETED", "confirmed_at": datetime.now(UTC)}
    return same | done


def accepted(error: KafkaError | None, _: Message) -> None:
    """A confirmation that the broker does not have ends this program: the event is read again at the next start."""
    if error is not None:
        raise SystemExit(f"the confirmation was not accepted: {error}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--originator", default="acme-marketplace", help="act for this originator_id only")
    parser.add_argument("--group", default="acme-compensations", help="your consumer group")
    parser.add_argument("--count", type=int, help="stop after so many different events (default: never)")
    options = parser.parse_args()
    registry = SchemaRegistryClient({"url": REGISTRY})
    settings = {"group.id": options.group, "auto.offset.reset": "earliest", "enable.auto.commit": False}
    consumer = Consumer({"bootstrap.servers": KAFKA, **settings})
    producer = Producer({"bootstrap.servers": KAFKA, "acks": "all", "enable.idempotence": True})
    deserialize = AvroDeserializer(registry, conf=BY_TOPIC)
    serialize = AvroSerializer(registry, conf={**BY_TOPIC, "auto.register.schemas": False, "use.latest.version": True})
    consumer.subscribe([NEEDED])
    # In earnest: a unique column of your database, written in the transaction that gives the money back.
    seen: set[bytes] = set()
    try:
        while len(seen) != options.count:
            message = consumer.poll(1.0)
            if message is None:
                continue
            if message.error():
                raise SystemExit(f"not readable: {message.error()}")
            event_id = dict(message.headers())["ce_id"]
            if event_id not in seen:
                event = deserialize(message.value(), SerializationContext(NEEDED, MessageField.VALUE))
                print(json.dumps(event, default=str), flush=True)
                if (event["executor"], event["originator_id"]) == ("ORIGINATOR", options.originator):
                    answer = confirmation(event, give_back(event))
                    value = serialize(answer, SerializationContext(CONFIRMED, MessageField.VALUE))
                    producer.produce(CONFIRMED, value, key=event["payout_id"], on_delivery=accepted)
                    if producer.flush(30):
                        raise SystemExit("Kafka did not accept the confirmation in 30 s")
                seen.add(event_id)
            consumer.commit(message, asynchronous=False)
    finally:
        consumer.close()


if __name__ == "__main__":
    main()
