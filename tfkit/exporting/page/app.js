import {Tensor, loadAndCompile, loadLiteRt} from '@litertjs/core';
import {WordPiece, resize} from './prepare.js';

const about = await (await fetch('about.json')).json();
const element = (id) => document.getElementById(id);
const say = (sentence) => (element('status').textContent = sentence);
const SHOWN = 10, ROUNDS = 30;
let model, variant, tokenizer, last;

async function load(chosen) {
  model?.delete();
  model = await loadAndCompile(encodeURIComponent(chosen.file), {accelerator: 'wasm'});
  variant = chosen;
  await run(blank());  // the first one makes room
}

const blank = () => tokenizer ? tokenizer.row('') : {image: new Uint8Array(3 * about.size ** 2)};

// What is prepared once, {image} or {ids, mask}, to probabilities in the order of the labels, and milliseconds.
export async function run(prepared) {
  const inputs = model.getInputDetails().map(({name, dtype, shape}) => {
    let values = prepared.image ?? (name.includes('mask') ? prepared.mask : prepared.ids);
    if (name.includes('type')) values = new Int32Array(values.length);
    return new Tensor(dtype === 'float32' ? Float32Array.from(values) : values, [...shape]);
  });
  const began = performance.now(), outputs = await model.run(inputs), scores = await outputs[0].data();
  const milliseconds = performance.now() - began;
  const probabilities = Array.from(scores, (score) => (score - variant.zero_point) * variant.scale);
  [...inputs, ...outputs].forEach((tensor) => tensor.delete());
  return {probabilities, milliseconds};
}

async function classify(prepared) {
  last = prepared;
  const {probabilities, milliseconds} = await run(prepared);
  const surest = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]).slice(0, SHOWN);
  element('classes').replaceChildren(...surest.map((place) => {
    const share = `${(100 * probabilities[place]).toFixed(1)} %`, row = document.createElement('li');
    row.innerHTML = '<span></span><span class="bar" aria-hidden="true"><i></i></span><span></span>';
    row.firstChild.textContent = about.labels[place] ?? `class ${place}`;
    row.querySelector('i').style.width = share.replace(' ', '');
    row.lastChild.textContent = share;
    return row;
  }));
  say(`${variant.name} took ${milliseconds.toFixed(1)} ms: ${element('classes').firstChild.firstChild.textContent}`);
  return probabilities;
}

// Upright, as browsers show it, over white, and without the colour profile, which training does not read either.
export async function picture(source) {
  if (source instanceof Blob) {
    const head = new Uint8Array(await source.slice(0, 25).arrayBuffer());
    if (about.deep && head[1] === 0x50 && head[24] === 16)
      throw new Error('This picture has 16 bits, of which browsers keep 8. The model needs all of them.');
    try {
      source = await createImageBitmap(source, {colorSpaceConversion: 'none'});
    } catch {
      throw new Error('This is no picture that the browser can read.');
    }
  }
  const canvas = element('picture');
  [canvas.width, canvas.height] = [source.videoWidth ?? source.width, source.videoHeight ?? source.height];
  const context = canvas.getContext('2d', {willReadFrequently: true});
  context.fillStyle = 'white';
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(source, 0, 0);
  const {data, width, height} = context.getImageData(0, 0, canvas.width, canvas.height);
  return classify({image: resize(data, width, height, about.size)});
}

export const text = (words) => classify(tokenizer.row(words));

// The median of each file's milliseconds in this browser, after as many rounds that do not count.
export async function measure() {
  const before = variant, times = {};
  for (const one of about.variants) {
    say(`Timing ${one.name} ...`);
    await load(one);
    const took = [];
    for (let round = 0; round < 2 * ROUNDS; round++) took.push((await run(blank())).milliseconds);
    times[one.name] = took.slice(ROUNDS).sort((a, b) => a - b)[ROUNDS / 2];
  }
  await load(before);
  say(Object.entries(times).map(([name, ms]) => `${name} ${ms.toFixed(1)} ms`).join(', '));
  return times;
}

// One thing at a time; what goes wrong is said.
let running = Promise.resolve();
const when = (target, event, act) => target?.addEventListener(event, (given) => {
  given.preventDefault();
  running = running.then(() => act(given)).catch((error) => say(error.message));
});

async function camera() {
  const video = element('video'), button = element('camera');
  if (!video.srcObject) {
    if (!navigator.mediaDevices) throw new Error('Browsers lend the camera to https:// and to this machine alone.');
    video.srcObject = await navigator.mediaDevices.getUserMedia({video: true});
    await video.play();
  } else {
    await picture(video);
    video.srcObject.getTracks().forEach((track) => track.stop());
    video.srcObject = null;
  }
  video.hidden = !video.srcObject;
  button.textContent = video.hidden ? 'Camera' : 'Take the picture';
}

const ofFiles = (files) => files.length && picture(files[0]);
when(element('ask'), 'submit', () => text(element('text').value));
when(element('file'), 'change', ({target}) => ofFiles(target.files));
when(element('drop'), 'dragover', () => {});
when(element('drop'), 'drop', ({dataTransfer}) => ofFiles(dataTransfer.files));
when(element('camera'), 'click', camera);
when(element('measure'), 'click', measure);
when(element('variant'), 'change', async ({target}) => {
  await load(about.variants[target.selectedIndex]);
  if (last) await classify(last);
});
when(element('drop') && document, 'paste', ({clipboardData}) => ofFiles(clipboardData.files));

element('variant').append(...about.variants.map(({name, size_bytes, accuracy}) => {
  const kept = accuracy == null ? '' : `, accuracy ${accuracy.toFixed(3)}`;
  return new Option(`${name}: ${(size_bytes / 1e6).toFixed(1)} MB${kept}`);
}));
try {
  if (about.length) tokenizer = new WordPiece(await (await fetch('vocab.txt')).text(), about.length);
  globalThis.Module = {printErr: console.debug};  // which is where the runtime says that all is well
  await loadLiteRt(import.meta.resolve('@litertjs/core').replace('dist/index.js', 'wasm/'));
  await load(about.variants[0]);
  say('Ready.');
} catch (error) {
  say(`The model does not load: ${error.message}`);
}
