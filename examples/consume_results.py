"""Read how payouts ended, one JSON line each, with stock confluent-kafka: nothing of payout-streams is imported."""

import argparse
import json
import os

from confluent_kafka import Consumer
from confluent_kafka.schema_registry import SchemaRegistryClient, topic_subject_name_strategy
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

KAFKA = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092")
REGISTRY = os.environ.get("SCHEMA_REGISTRY_URL", "http://127.0.0.1:8081")
TOPIC = os.environ.get("PAYOUTS_TOPIC_PREFIX", "") + "payout_results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--group", default="acme-results", help="your consumer group (default acme-results)")
    parser.add_argument("--count", type=int, help="stop after so many different results (default: never)")
    options = parser.parse_args()
    settings = {"group.id": options.group, "auto.offset.reset": "earliest", "enable.auto.commit": False}
    consumer = Consumer({"bootstrap.servers": KAFKA, **settings})
    deserialize = AvroDeserializer(
        SchemaRegistryClient({"url": REGISTRY}), conf={"subject.name.strategy": topic_subject_name_strategy}
    )
    consumer.subscribe([TOPIC])
    # In earnest: a unique column of your database, written in the transaction that acts on the result.
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
                result = deserialize(message.value(), SerializationContext(TOPIC, MessageField.VALUE))
                print(json.dumps(result, default=str), flush=True)
                seen.add(event_id)
            consumer.commit(message, asynchronous=False)
    finally:
        consumer.close()


if __name__ == "__main__":
    main()
