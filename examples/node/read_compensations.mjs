// Give back what unpaid payouts had captured, and confirm it, with kafkajs and its registry client.
import { parseArgs } from 'node:util'
import { SchemaRegistry } from '@kafkajs/confluent-schema-registry'
import { Kafka, Partitioners, logLevel } from 'kafkajs'

const KAFKA = process.env.KAFKA_BOOTSTRAP_SERVERS ?? '127.0.0.1:9092'
const REGISTRY = process.env.SCHEMA_REGISTRY_URL ?? 'http://127.0.0.1:8081'
const PREFIX = process.env.PAYOUTS_TOPIC_PREFIX ?? ''
const NEEDED = PREFIX + 'payout_failed_requires_compensation'
const CONFIRMED = PREFIX + 'payout_compensation_confirmations'
const HELP = `usage: read_compensations.mjs [--originator YOUR_ORIGINATOR_ID] [--group YOUR_CONSUMER_GROUP]
                              [--count DIFFERENT_EVENTS]`

// Release the hold or refund in your own books, once for each compensation_id; returns your own reference.
function giveBack(event) {
  return `released-${event.funding_reference}`
}

// What makes a compensation of executor ORIGINATOR end COMPENSATED; outcome REFUSED calls a person.
function confirmation(event, reference) {
  const { compensation_id, payout_id, originator_id } = event
  const done = { confirmation_reference: reference, outcome: 'COMPLETED', confirmed_at: Date.now() * 1000 }
  return { compensation_id, payout_id, originator_id, ...done }
}

const { values: options } = parseArgs({
  options: {
    originator: { type: 'string', default: 'acme-marketplace' },
    group: { type: 'string', default: 'acme-compensations-node' },
    count: { type: 'string', default: 'Infinity' },
    help: { type: 'boolean', default: false },
  },
})
if (options.help) {
  console.log(HELP)
  process.exit(0)
}

const registry = new SchemaRegistry({ host: REGISTRY })
const schemaId = await registry.getLatestSchemaId(`${CONFIRMED}-value`)
const kafka = new Kafka({ brokers: KAFKA.split(','), logLevel: logLevel.WARN })
// A short wait at the broker only makes the end quick: disconnect() waits for the fetch that is under way.
const consumer = kafka.consumer({ groupId: options.group, maxWaitTimeInMs: 500 })
const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner })
// In earnest: a unique column of your database, written in the transaction that gives the money back.
const seen = new Set()
const count = Number(options.count)

async function handle(message) {
  const event = await registry.decode(message.value)
  console.log(JSON.stringify(event))
  if (event.executor !== 'ORIGINATOR' || event.originator_id !== options.originator) return
  const value = await registry.encode(schemaId, confirmation(event, giveBack(event)))
  // What the broker does not take throws: the offset stays, and the event is read again.
  await producer.send({ topic: CONFIRMED, acks: -1, messages: [{ key: event.payout_id, value }] })
}

await Promise.all([consumer.connect(), producer.connect()])
await consumer.subscribe({ topic: NEEDED, fromBeginning: true })
try {
  await new Promise((resolve, reject) => {
    consumer.on(consumer.events.CRASH, ({ payload }) => payload.restart || reject(payload.error))
    const eachMessage = async ({ topic, partition, message }) => {
      if (seen.size >= count) return
      const eventId = message.headers.ce_id.toString()
      if (!seen.has(eventId)) {
        await handle(message)
        seen.add(eventId)
      }
      await consumer.commitOffsets([{ topic, partition, offset: String(BigInt(message.offset) + 1n) }])
      if (seen.size >= count) resolve()
    }
    consumer.run({ autoCommit: false, eachMessage }).catch(reject)
  })
} finally {
  await Promise.all([consumer.disconnect(), producer.disconnect()])
}
