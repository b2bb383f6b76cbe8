// Read how payouts ended, one JSON line each, with kafkajs and its registry client.
import { parseArgs } from 'node:util'
import { SchemaRegistry } from '@kafkajs/confluent-schema-registry'
import { Kafka, logLevel } from 'kafkajs'

const KAFKA = process.env.KAFKA_BOOTSTRAP_SERVERS ?? '127.0.0.1:9092'
const REGISTRY = process.env.SCHEMA_REGISTRY_URL ?? 'http://127.0.0.1:8081'
const TOPIC = (process.env.PAYOUTS_TOPIC_PREFIX ?? '') + 'payout_results'
const HELP = `usage: read_results.mjs [--group YOUR_CONSUMER_GROUP] [--count DIFFERENT_RESULTS]`

const { values: options } = parseArgs({
  options: {
    group: { type: 'string', default: 'acme-results-node' },
    count: { type: 'string', default: 'Infinity' },
    help: { type: 'boolean', default: false },
  },
})
if (options.help) {
  console.log(HELP)
  process.exit(0)
}

const registry = new SchemaRegistry({ host: REGISTRY })
const kafka = new Kafka({ brokers: KAFKA.split(','), logLevel: logLevel.WARN })
// A short wait at the broker only makes the end quick: disconnect() waits for the fetch that is under way.
const consumer = kafka.consumer({ groupId: options.group, maxWaitTimeInMs: 500 })
// In earnest: a unique column of your database, written in the transaction that acts on the result.
const seen = new Set()
const count = Number(options.count)
await consumer.connect()
await consumer.subscribe({ topic: TOPIC, fromBeginning: true })
try {
  await new Promise((resolve, reject) => {
    consumer.on(consumer.events.CRASH, ({ payload }) => payload.restart || reject(payload.error))
    const eachMessage = async ({ topic, partition, message }) => {
      if (seen.size >= count) return
      const eventId = message.headers.ce_id.toString()
      if (!seen.has(eventId)) {
        console.log(JSON.stringify(await registry.decode(message.value)))
        seen.add(eventId)
      }
      await consumer.commitOffsets([{ topic, partition, offset: String(BigInt(message.offset) + 1n) }])
      if (seen.size >= count) resolve()
    }
    consumer.run({ autoCommit: false, eachMessage }).catch(reject)
  })
} finally {
  await consumer.disconnect()
}
