// Runs face-api's own TinyFaceDetector on raw pictures; called by face_yolo.py. Arguments: package folder, job file.
// Job: {"size": 416, "pictures": [{"raw": path, "width": w, "height": h}]}. Prints one JSON list.
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
  const net = faceapi.nets.tinyFaceDetector;
  await net.loadFromDisk(path.join(api, "model"));
  const { size, pictures } = JSON.parse(fs.readFileSync(job, "utf8"));
  const answers = [];
  for (const { raw, width, height } of pictures) {
    const picture = tf.tensor3d(new Uint8Array(fs.readFileSync(raw)), [height, width, 3], "int32").toFloat();
    const codes = await net.forward(picture, size);
    const faces = await net.locateFaces(picture, { inputSize: size, scoreThreshold: 0.1 });
    answers.push({
      codes: Array.from(await codes.data()),
      faces: faces.map((face) => [face.box.x, face.box.y, face.box.right, face.box.bottom, face.score]),
    });
  }
  fs.writeSync(1, JSON.stringify(answers));
}

main();
