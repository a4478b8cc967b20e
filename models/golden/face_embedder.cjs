// Runs face-api's own FaceRecognitionNet on raw 150x150 RGB chips; called by face_embedder.py. Arguments: package
// folder, job file. Job: {"chips": [path]}. Prints one JSON list of lists of 128 numbers.
const fs = require("fs");
const path = require("path");

async function main() {
  const [home, job] = process.argv.slice(2);
  const tf = require(path.join(home, "node_modules/@tensorflow/tfjs"));
  await tf.setBackend("cpu");
  await tf.ready();
  const api = path.join(home, "node_modules/@vladmandic/face-api");
  const faceapi = require(path.join(api, "dist/face-api.node-wasm.js"));
  class Nothing {}
  faceapi.env.monkeyPatch({ Canvas: Nothing, Image: Nothing, ImageData: Nothing, Video: Nothing,
    createCanvasElement: () => new Nothing(), createImageElement: () => new Nothing() });
  const net = faceapi.nets.faceRecognitionNet;
  await net.loadFromDisk(path.join(api, "model"));
  const answers = [];
  for (const raw of JSON.parse(fs.readFileSync(job, "utf8")).chips) {
    const picture = tf.tensor3d(new Uint8Array(fs.readFileSync(raw)), [150, 150, 3], "int32").toFloat();
    answers.push(Array.from(await (await net.forward(picture)).data()));
  }
  fs.writeSync(1, JSON.stringify(answers));
}

main();
