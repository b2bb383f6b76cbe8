// What the official parser says of each document (YAML or JSON): one JSON line a file, in the order of the arguments.
// Of AsyncAPI 3 it does not compare examples with their schemas: that is done here, with the JSON schema that the
// official Avro parser makes of the payload.
import { AvroSchemaParser } from '@asyncapi/avro-schema-parser'
import { Parser, fromFile } from '@asyncapi/parser'
import { Ajv } from 'ajv'

const SEVERITIES = ['error', 'warning', 'information', 'hint']
const parser = new Parser()
parser.registerSchemaParser(AvroSchemaParser())

function* wrongExamples(message) {
  for (const [index, example] of message.examples().all().entries()) {
    for (const part of ['headers', 'payload']) {
      if (example[part]() === undefined) continue
      const schema = message[part]().json()
      const ajv = new Ajv({ strict: false, validateFormats: false })
      if (ajv.validate(schema.schemaFormat ? schema.schema : schema, example[part]())) continue
      const path = `components/messages/${message.id()}/examples/${index}/${part}`
      yield { severity: 'error', code: `example of ${message.id()} ${part}`, path, message: ajv.errorsText() }
    }
  }
}

for (const file of process.argv.slice(2)) {
  const { document, diagnostics } = await fromFile(parser, file).parse()
  const found = diagnostics.map(({ severity, code, path, message }) => ({
    severity: SEVERITIES[severity], code: String(code), path: path.join('/'), message,
  }))
  const messages = document?.components().messages().all() ?? []
  console.log(JSON.stringify({
    diagnostics: [...found, ...messages.flatMap((message) => [...wrongExamples(message)])],
    examples: messages.reduce((count, message) => count + message.examples().all().length, 0),
    version: document?.version(),
    send: document?.operations().filterBySend().map((operation) => operation.id()),
    receive: document?.operations().filterByReceive().map((operation) => operation.id()),
  }))
}
