// Tries the file on pictures of the person who holds the device.

const TOP = 5;

const element = (id) => document.getElementById(id);

// The image, as the network sees it: resized as a whole, white behind what is transparent.
function draw(bitmap, canvas, [, height, width], {mean, std, pixel_max: white}) {
  Object.assign(canvas, {width, height});
  const context = canvas.getContext('2d', {willReadFrequently: true});
  context.imageSmoothingQuality = 'high';
  context.fillStyle = 'white';
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0, width, height);
  const {data} = context.getImageData(0, 0, width, height);
  const values = new Float32Array(width * height * mean.length);
  for (let pixel = 0; pixel < width * height; pixel++) {
    let channels = [...data.subarray(4 * pixel, 4 * pixel + 3)];
    if (mean.length === 1) {
      const grey = 0.299 * channels[0] + 0.587 * channels[1] + 0.114 * channels[2];
      channels = [grey];
      data.fill(grey, 4 * pixel, 4 * pixel + 3);
    }
    channels.forEach((value, channel) => {
      values[pixel * mean.length + channel] =
        (value * white / 255 - mean[channel]) / std[channel];
    });
  }
  context.putImageData(new ImageData(data, width, height), 0, 0);
  canvas.hidden = false;
  return values;
}

// Of classes, from probabilities or from logits.
function probabilities(outputs) {
  const sum = outputs.reduce((a, b) => a + b, 0);
  if (Math.abs(sum - 1) < 1e-3 && outputs.every((x) => x >= 0)) return [...outputs];
  const largest = Math.max(...outputs);
  const powers = [...outputs].map((x) => Math.exp(x - largest));
  const total = powers.reduce((a, b) => a + b, 0);
  return powers.map((x) => x / total);
}

async function classify(file, {inputs, image}, outputsFor) {
  try {
    const [[name, {shape}]] = Object.entries(inputs);
    const values = draw(await createImageBitmap(file), element('seen'), shape, image);
    const outputs = await outputsFor({[name]: values});
    const rows = probabilities(Object.values(outputs)[0])
      .map((share, index) => [share, image.class_names[index]])
      .sort((a, b) => b[0] - a[0]).slice(0, TOP)
      .map(([share, label]) => {
        const row = document.createElement('tr');
        row.append(...[label, `${(100 * share).toFixed(1)}%`].map((text) => {
          return Object.assign(document.createElement('td'), {textContent: text});
        }));
        return row;
      });
    element('classes').tBodies[0].replaceChildren(...rows);
    element('classes').hidden = false;
    element('image-about').textContent = 'What the network sees, and what it says:';
  } catch (error) {
    element('image-about').textContent = `Not an image that can be read: ${error.message}`;
  }
}

// Shows the page's part for images, or why there is none. `outputsFor` runs the file.
export function offerImages(about, outputsFor) {
  element('image-about').textContent = about.no_image;
  element('image').hidden = !about.image;
  element('file').addEventListener('change', ({target}) => {
    if (target.files[0]) classify(target.files[0], about, outputsFor);
  });
}
