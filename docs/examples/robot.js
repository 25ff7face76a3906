// A robot in JavaScript: npm install zeromq @msgpack/msgpack; node robot.js [tcp://HOST:PORT]
const { Request } = require("zeromq");
const { encode, decode } = require("@msgpack/msgpack");

const address = process.argv[2] || "tcp://127.0.0.1:8000";

// Arrays are maps of their type, their shape and their bytes, last axis fastest.
const array = (type, shape, data) => ({
  nd: true, type, kind: "", shape, data: new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
});

// Keys come back as text or as bytes, and so do the names of types.
const text = (value) => (value instanceof Uint8Array ? Buffer.from(value).toString() : value);

async function infer(socket, observation, deadlineMs = 10000) {
  await socket.send([
    encode({ v: 1, kind: "infer", deadline_ms: deadlineMs }),
    encode(observation),
  ]);
  const [header, body] = (await socket.receive()).map((frame) => decode(frame));
  if (header.kind === "error") throw new Error(`${header.code}: ${header.message}`);
  return body;
}

async function main() {
  // A broker that is gone answers nothing: wait a little longer than the deadline.
  const socket = new Request({ linger: 0, receiveTimeout: 11000 });
  socket.connect(address);
  const image = array("|u1", [224, 224, 3], new Uint8Array(224 * 224 * 3));
  const observation = {
    "observation/image": image,
    "observation/wrist_image": image,
    "observation/state": array("<f4", [8], new Float32Array(8)),
    prompt: "put the bowl on the plate",
  };
  const { actions } = await infer(socket, observation);
  const data = Uint8Array.from(actions.data); // a copy, so that it is aligned
  const values = text(actions.type) === "<f4" ? new Float32Array(data.buffer) : new Float64Array(data.buffer);
  console.log(`result ${text(actions.type)} [${actions.shape.join(", ")}] ${values.length}`);
  socket.close();
}

main().catch((error) => {
  console.error(error.message);
  process.exit(1);
});
