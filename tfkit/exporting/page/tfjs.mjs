// Run a graph model of TensorFlow.js in Node, with its wasm back end: node tfjs.mjs MODULES MODEL INPUTS OUTPUTS
// INPUTS is JSON, a list of {name: [shape, type, values]}, one an example; so is OUTPUTS: {rows, milliseconds}.
import fs from 'node:fs';
import {createRequire} from 'node:module';
import path from 'node:path';

const [modules, folder, inputs, outputs] = process.argv.slice(2);
const require = createRequire(path.join(path.resolve(modules), 'node_modules/'));
const tf = require('@tensorflow/tfjs-core'), {loadGraphModel} = require('@tensorflow/tfjs-converter');
const wasm = require('@tensorflow/tfjs-backend-wasm');
wasm.setWasmPaths(path.join(path.resolve(modules), 'node_modules/@tensorflow/tfjs-backend-wasm/dist/'));
await tf.setBackend('wasm');

const {modelTopology, weightsManifest, signature} = JSON.parse(fs.readFileSync(path.join(folder, 'model.json')));
const parts = weightsManifest.flatMap((group) => group.paths).map((name) => fs.readFileSync(path.join(folder, name)));
const weightData = new Uint8Array(Buffer.concat(parts)).buffer, weightSpecs = weightsManifest.flatMap((group) => group.weights);
const model = await loadGraphModel({load: async () => ({modelTopology, weightSpecs, weightData, signature})});
const took = [], rows = JSON.parse(fs.readFileSync(inputs)).map((example) => {
  const tensors = Object.entries(example).map(([name, [shape, type, values]]) => [name, tf.tensor(values, shape, type)]);
  const began = performance.now(), row = Array.from(model.predict(Object.fromEntries(tensors)).dataSync());
  took.push(performance.now() - began);
  return row;
});
fs.writeFileSync(outputs, JSON.stringify({rows, milliseconds: took.sort((a, b) => a - b)[took.length >> 1]}));
