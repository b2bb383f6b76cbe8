// Records to bytes and back with avsc, which kafkajs's registry client uses. stdin: [{schema, schema_id, record}];
// stdout: [{hex, record}], hex with the wire format's five bytes before it, record as read back from the bytes.
// The first argument is the project whose avsc it is.
import { createRequire } from 'node:module'
import { json } from 'node:stream/consumers'

const avsc = createRequire(process.argv[2])('avsc')
const answers = (await json(process.stdin)).map(({ schema, schema_id, record }) => {
  const type = avsc.Type.forSchema(schema)
  const head = Buffer.alloc(5)
  head.writeUInt32BE(schema_id, 1)
  const data = Buffer.concat([head, type.toBuffer(record)])
  return { hex: data.toString('hex'), record: type.fromBuffer(data.subarray(5)) }
})
console.log(JSON.stringify(answers))
