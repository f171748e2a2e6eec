// A producer that knows NATS and nothing of Forseti: npm ci, then node producer.mjs.
import { connect, createInbox, headers } from "@nats-io/transport-node"
import { jetstream } from "@nats-io/jetstream"

const prefix = "forseti.v1."
const nc = await connect({ servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222" })
const js = jetstream(nc)

// A task is stored when the publication is acknowledged. Its result also goes where forseti-reply says.
const inbox = createInbox()
const results = nc.subscribe(inbox)[Symbol.asyncIterator]()
async function send(subject, id, body, extra = {}) {
  const h = headers()
  h.set("Nats-Msg-Id", id) // sent twice within two minutes, it is stored once
  h.set("forseti-task-id", id)
  h.set("forseti-reply", inbox)
  h.set("forseti-timeout-ms", "20000")
  for (const [name, value] of Object.entries(extra)) h.set(name, value)
  await js.publish(prefix + subject, JSON.stringify(body), { headers: h })
}
async function result(what) {
  const { value: m } = await results.next()
  console.log(what, m.headers.get("forseti-task-id"), m.headers.get("forseti-outcome"), m.headers.get("forseti-reason"), m.string())
}
await send("task.charge", "node-1", { order: 1, amount: 12 })
await result("task")
await send("task.charge.hi", "node-2", { order: 2, amount: -1 }) // before others
await result("task")

// One that waits in the server until it is due.
const due = new Date(Date.now() + 1000).toISOString().replace(/\.\d+/, "")
await send("sched.charge.node-3", "node-3", { order: 3, amount: 5 }, {
  "Nats-Schedule": `@at ${due}`, "Nats-Schedule-Target": `${prefix}due.charge`,
})
await result("late")

// A call is answered by whichever node has room, and stored nowhere; without a node there is an error at once.
const answer = await nc.request(prefix + "call.charge", JSON.stringify({ order: 4, amount: 7 }), { timeout: 10_000 })
console.log("call", answer.headers?.get("forseti-outcome"), answer.string())
await nc.drain()
