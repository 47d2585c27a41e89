// Runs model.tflite with LiteRT.js: compares, measures and reports.

import {loadAndCompile, loadLiteRt, Tensor} from '@litertjs/core';
import {offerImages} from './image.js';

const ARRAYS = {float32: Float32Array, int32: Int32Array, uint8: Uint8Array};
const WARM_UP_MS = 500;
// A timing takes at least this many steps of the clock, so that it is right to 5%.
const CLOCK_STEPS = 20;

const element = (id) => document.getElementById(id);
// Lets the page be painted.
const pause = () => new Promise((resolve) => setTimeout(resolve, 30));

let about;
let model;

function say(text, kind = '') {
  element('status').textContent = text;
  element('status').className = kind;
}

function decode(base64, tensor) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  return new ARRAYS[tensor.dtype](bytes.buffer);
}

// Tensors live in WebAssembly's memory, which nothing collects.
const release = (tensors) => Object.values(tensors).forEach((tensor) => tensor.delete());

function inputTensors(arrays) {
  return Object.fromEntries(
    Object.entries(about.inputs).map(
      ([name, {shape}]) => [name, Tensor.fromTypedArray(arrays[name], shape)]));
}

async function withInputs(arrays, use) {
  const inputs = inputTensors(arrays);
  try {
    return await use(inputs);
  } finally {
    release(inputs);
  }
}

async function outputsFor(arrays) {
  return withInputs(arrays, async (inputs) => {
    const outputs = await model.run(inputs);
    const copies = Object.fromEntries(
      Object.entries(outputs).map(([name, tensor]) => [name, tensor.toTypedArray().slice()]));
    release(outputs);
    return copies;
  });
}

function decodedInputs(sample) {
  return Object.fromEntries(
    Object.entries(about.inputs).map(
      ([name, tensor]) => [name, decode(sample.inputs[name], tensor)]));
}

// The largest difference from the host's outputs; NaN if there is a NaN in any.
async function largestDifference() {
  let largest = 0;
  for (const sample of about.samples) {
    const actual = await outputsFor(decodedInputs(sample));
    for (const [name, tensor] of Object.entries(about.outputs)) {
      const expected = decode(sample.outputs[name], tensor);
      if (actual[name]?.length !== expected.length) {
        throw new Error(`output ${name} has ${actual[name]?.length} numbers, the host's has ` +
                        `${expected.length}`);
      }
      for (let i = 0; i < expected.length; i++) {
        // Two infinities are equal, but their difference is NaN.
        const difference =
          actual[name][i] === expected[i] ? 0 : Math.abs(actual[name][i] - expected[i]);
        // Math.max keeps a NaN.
        largest = Math.max(largest, difference);
      }
    }
  }
  return largest;
}

// The step of performance.now(), in ms: browsers round it to hinder attacks on their secrets.
function clockStep() {
  let step = Infinity;
  for (let i = 0; i < 10; i++) {
    const start = performance.now();
    let now = start;
    while (now === start) now = performance.now();
    step = Math.min(step, now - start);
  }
  return step;
}

// Linear between the two nearest, as numpy's.
function percentile(sorted, percent) {
  const place = (sorted.length - 1) * percent / 100;
  const low = Math.floor(place);
  const high = Math.ceil(place);
  return sorted[low] + (sorted[high] - sorted[low]) * (place - low);
}

async function timings() {
  return withInputs(decodedInputs(about.samples[0]), async (inputs) => {
    const block = async (repeats) => {
      const start = performance.now();
      for (let i = 0; i < repeats; i++) release(await model.run(inputs));
      return performance.now() - start;
    };
    // By time too: a browser compiles WebAssembly quickly first, and well while it runs.
    const warmUp = Math.max(5, Math.floor(about.runs / 10));
    const end = performance.now() + WARM_UP_MS;
    for (let count = 0; count < warmUp || performance.now() < end; count++) await block(1);
    const step = clockStep();
    let repeats = 1;
    // Of three, since one can have been held up.
    while (Math.min(await block(repeats), await block(repeats), await block(repeats)) <
           CLOCK_STEPS * step) {
      repeats *= 2;
    }
    const times = [];
    for (let run = 0; run < about.runs; run++) {
      times.push(await block(repeats) / repeats);
      // Not in a timing: a long measurement must not look like a page that hangs.
      if (run % 10 === 9) await new Promise((resolve) => setTimeout(resolve));
    }
    times.sort((a, b) => a - b);
    return {median: percentile(times, 50), p95: percentile(times, 95), repeats, step};
  });
}

async function send(measurement) {
  try {
    const body = JSON.stringify({user_agent: navigator.userAgent, ...measurement});
    const response = await fetch('measurement', {method: 'POST', body});
    return response.ok;
  } catch {
    return false;
  }
}

async function measure() {
  element('again').disabled = true;
  try {
    say('Comparing …');
    await pause();
    const difference = await largestDifference();
    const agrees = difference <= about.tolerance;
    element('agreement').textContent = `Largest difference from the host's outputs: ` +
      `${difference && difference.toExponential(1)}, ${agrees ? 'agrees' : 'DOES NOT AGREE'}`;
    element('agreement').className = agrees ? 'good' : 'bad';
    say('Measuring …');
    await pause();
    const {median, p95, repeats, step} = await timings();
    element('median').textContent = median.toFixed(3);
    element('p95').textContent = p95.toFixed(3);
    element('latency').hidden = false;
    element('clock').textContent = `${about.runs} timings after a warm-up, one thread` +
      (repeats === 1 ? '.' : `, each the mean of ${repeats} runs, since the clock of this browser ` +
                             `counts in steps of ${Number(step.toPrecision(2))} ms.`);
    // As text: JSON has no NaN and no Infinity.
    const sent = await send({
      median_ms: median, p95_ms: p95, runs: about.runs, repeats,
      max_abs_difference: String(difference),
    });
    if (sent) say('Measured, and sent to the terminal.');
    else say('Measured. It could not be sent: the command has ended.', 'bad');
  } catch (error) {
    await fail(error);
  }
  element('again').disabled = false;
}

async function fail(error) {
  const reason = `${error?.message ?? error}`;
  say(`This browser cannot run the file: ${reason}`, 'bad');
  await send({failure: reason});
}

async function start() {
  element('agent').textContent = navigator.userAgent;
  try {
    about = await (await fetch('about.json')).json();
    element('name').textContent = about.name;
    element('about').textContent =
      `${about.size.toLocaleString('en')} bytes, ${about.runtime}, WebAssembly`;
    element('host-median').textContent = about.host.median_ms.toFixed(3);
    element('host-p95').textContent = about.host.p95_ms.toFixed(3);
    say('Loading LiteRT.js …');
    await loadLiteRt('./runtime/core/wasm/');
    const options = {accelerator: 'wasm', cpuOptions: {numThreads: 1}};
    model = await loadAndCompile('./model.tflite', options);
  } catch (error) {
    await fail(error);
    return;
  }
  offerImages(about, outputsFor);
  element('again').addEventListener('click', measure);
  await measure();
}

start();
