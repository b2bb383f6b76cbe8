// Ask for one payout with kafkajs, its registry client and jose: nothing of payout-streams is imported here.
import { readFile } from 'node:fs/promises'
import { text } from 'node:stream/consumers'
import { parseArgs } from 'node:util'
import { SchemaRegistry } from '@kafkajs/confluent-schema-registry'
import { CompactEncrypt, importJWK } from 'jose'
import { Kafka, Partitioners, logLevel } from 'kafkajs'

const KAFKA = process.env.KAFKA_BOOTSTRAP_SERVERS ?? '127.0.0.1:9092'
const REGISTRY = process.env.SCHEMA_REGISTRY_URL ?? 'http://127.0.0.1:8081'
const KEYS = process.env.PARTY_KEYS_FILE ?? 'party_public.jwks.json'
const TOPIC = (process.env.PAYOUTS_TOPIC_PREFIX ?? '') + 'payout_requests'
// Both are kafkajs's own: the first puts a key where Java clients put it, the second where kafkajs 1 did. Either will do.
const PARTITIONERS = { default: Partitioners.DefaultPartitioner, legacy: Partitioners.LegacyPartitioner }
const HELP = `usage: send_payout.mjs PAYOUT_ID [--amount-minor CENTS] [--token CARD_TOKEN | --card-on-stdin]
                       [--partitioner default|legacy]

PAYOUT_ID is your own, unique for ever: 8 to 64 of A-Z a-z 0-9 _ -. --card-on-stdin reads the card as JSON
(card.schema.json) from standard input: a card number belongs into no command line.`

// Personal data and cards travel only like this: a compact JWE to the processor's newest published key.
async function encrypted(document) {
  const [key] = JSON.parse(await readFile(KEYS, 'utf8')).keys
  return new CompactEncrypt(new TextEncoder().encode(JSON.stringify(document)))
    .setProtectedHeader({ alg: 'RSA-OAEP-256', enc: 'A256GCM', kid: key.kid })
    .encrypt(await importJWK(key, 'RSA-OAEP-256'))
}

// One USD payout from our own balance; fields that are left out take the schema's default.
async function request(payoutId, amountMinor, card) {
  const address = { line1: '1 Main Street', city: 'Foster City', state: 'CA', postal_code: '94404', country: 'US' }
  const [sender, recipient] = ['Acme Marketplace', 'Rosalind Example'].map((name) => ({ name, address }))
  return {
    payout_id: payoutId,
    originator_id: 'acme-marketplace',
    funding: { kind: 'INTERNAL', internal: { debit_confirmed: true, confirmation_ref: `debit-of-${payoutId}` } },
    destination: { kind: 'CARD', card },
    amount: { amount_minor: amountMinor, currency: 'USD' },
    corridor: { source_country: 'US', target_country: 'US', source_currency: 'USD', target_currency: 'USD' },
    personal_data: await encrypted({ sender, recipient }),
    requested_at: Date.now() * 1000, // microseconds
    correlation_id: `order-${payoutId}`,
  }
}

const { values: options, positionals: [payoutId] } = parseArgs({
  allowPositionals: true,
  options: {
    'amount-minor': { type: 'string', default: '2500' },
    token: { type: 'string', default: 'tok_approve_1' },
    'card-on-stdin': { type: 'boolean', default: false },
    partitioner: { type: 'string', default: 'default' },
    help: { type: 'boolean', default: false },
  },
})
if (options.help || payoutId === undefined) {
  console.log(HELP)
  process.exit(options.help ? 0 : 2)
}

const card = options['card-on-stdin']
  ? { encrypted_card: await encrypted(JSON.parse(await text(process.stdin))) }
  : { token_reference: options.token }
// The schema is whatever the registry has under payout_requests-value: the processor registers, we never do.
const registry = new SchemaRegistry({ host: REGISTRY })
const schemaId = await registry.getLatestSchemaId(`${TOPIC}-value`)
const value = await registry.encode(schemaId, await request(payoutId, Number(options['amount-minor']), card))

const kafka = new Kafka({ brokers: KAFKA.split(','), logLevel: logLevel.WARN })
const producer = kafka.producer({ createPartitioner: PARTITIONERS[options.partitioner] })
await producer.connect()
try {
  // Accepted is what every in-sync replica has. After an error send the same request again: it is paid once.
  const [place] = await producer.send({ topic: TOPIC, acks: -1, messages: [{ key: payoutId, value }] })
  console.log(JSON.stringify({ topic: place.topicName, partition: place.partition, offset: Number(place.baseOffset) }))
} finally {
  await producer.disconnect()
}
