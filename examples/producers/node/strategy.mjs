// A strategy in Node.js: it answers forseti.v1.ml.detect.ratio. What it learned of a key it keeps here.
import { connect } from "@nats-io/transport-node"

const nc = await connect({ servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222" })
const means = new Map()

function judge(key, { v }, learn) {
  const m = means.get(key) ?? { n: 0, mean: 0 }
  const score = m.n < 10 ? 0 : Math.abs(v - m.mean) / Math.max(Math.abs(m.mean), 1e-9)
  if (learn && score < 1) means.set(key, { n: m.n + 1, mean: m.mean + (v - m.mean) / (m.n + 1) })
  return { anomalous: score >= 1, score }
}

console.log("serving") // once the subscription below is made
for await (const m of nc.subscribe("forseti.v1.ml.detect.ratio", { queue: "forseti" })) {
  const q = m.json()
  const reply = { v: 1 }
  if (q.op === "reset") means.delete(q.key)
  else {
    const verdicts = q.samples.map((s) => judge(q.key ?? "", s, q.op !== "detect"))
    if (q.op !== "update") reply.verdicts = verdicts
  }
  m.respond(JSON.stringify(reply))
}
