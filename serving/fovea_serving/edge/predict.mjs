/* Predicts images in JavaScript as predict.py does: model.json has all numbers, and this file each step with them.
 *
 * `load(ort, read)` takes onnxruntime-web and a function that gives the bytes of a file beside this one, and gives one
 * that predicts an ImageData. index.html is the page that uses it.
 */

const ONE_OBJECT_IOU = 0.6; // boxes of different classes that overlap by more are of one object: the best is reported
const range = (count) => Array.from({ length: count }, (_, index) => index);
const clip = (value, low, high) => Math.min(Math.max(value, low), high);
const rounded = (value, digits) => Number(value.toFixed(digits));
/** To the nearest integer, of two the even one. */
const even = (value) => (Math.abs(value % 1) === 0.5 ? 2 * Math.round(value / 2) : Math.round(value));

/** At a point between `count` values at 0, 1, …: the share [index, share] of those beside it; none far beyond them. */
const between = (point, count) =>
  [Math.floor(point), Math.floor(point) + 1]
    .map((index) => [index, 1 - Math.abs(point - index)])
    .filter(([index]) => index >= 0 && index < count);

/** Of each target pixel: the source pixels in it, [index, share]; by area, or of the two nearest. */
function weights(source, target, smooth) {
  const ratio = source / target;
  if (smooth) return range(target).map((to) => between(clip((to + 0.5) * ratio - 0.5, 0, source - 1), source));
  return range(target).map((to) => {
    const [low, high] = [to * ratio, Math.min((to + 1) * ratio, source)];
    const first = Math.floor(low);
    return range(Math.ceil(high) - first).map((step) => {
      const pixel = first + step;
      return [pixel, (Math.min(high, pixel + 1) - Math.max(low, pixel)) / ratio];
    });
  });
}

/** Planes [count, from.height, from.width] at another size. */
function resize(planes, count, from, to, smooth) {
  const rows = weights(from.height, to.height, smooth);
  const columns = weights(from.width, to.width, smooth);
  const sum = (parts, value) => parts.reduce((total, [index, share]) => total + share * value(index), 0);
  const target = new Float64Array(count * to.height * to.width);
  const line = new Float64Array(from.width);
  for (let plane = 0, at = 0; plane < count; plane++)
    for (const parts of rows) {
      const start = plane * from.height * from.width;
      for (let x = 0; x < from.width; x++) line[x] = sum(parts, (y) => planes[start + y * from.width + x]);
      for (const shares of columns) target[at++] = sum(shares, (x) => line[x]);
    }
  return target;
}

/** The network's input of an ImageData, and the place that leads back: size of the image, scale and offset [x, y]. */
function prepare(image, given) {
  const size = [image.width, image.height];
  const input = [given.size.width, given.size.height];
  let scale = input.map((length, axis) => length / size[axis]);
  if (given.resize === "Letterbox") scale = scale.fill(Math.min(...scale));
  else if (given.resize === "CenterCrop") scale = scale.fill(Math.max(...scale));
  const fitted = size.map((length, axis) => Math.max(1, even(length * scale[axis])));
  const offset = input.map((length, axis) => Math.floor((length - fitted[axis]) / 2));
  const [width, height] = fitted;
  const count = size[0] * size[1];
  let planes = new Float64Array(3 * count).map((_, at) => image.data[4 * (at % count) + Math.floor(at / count)]);
  if (width !== size[0] || height !== size[1]) {
    const smooth = width >= size[0] && height >= size[1];
    planes = resize(planes, 3, image, { width, height }, smooth).map(even);
  }
  const tensor = new Float32Array(3 * input[0] * input[1]).map((_, at) => {
    const [plane, pixel] = [Math.floor(at / (input[0] * input[1])), at % (input[0] * input[1])];
    const [x, y] = [(pixel % input[0]) - offset[0], Math.floor(pixel / input[0]) - offset[1]];
    const inside = x >= 0 && y >= 0 && x < width && y < height;
    const value = inside ? planes[(plane * height + y) * width + x] : given.padValue;
    return (value / 255 - given.mean[plane]) / given.std[plane];
  });
  return { tensor, place: { size, input, scale: fitted.map((length, axis) => length / size[axis]), offset } };
}

/** Of objects, best first, those of which none overlaps a better one by more. */
function suppress(objects, iou) {
  const area = ({ box }) => (box[2] - box[0]) * (box[3] - box[1]);
  const overlaps = (one, other) => {
    const side = (axis) => Math.min(one.box[axis + 2], other.box[axis + 2]) - Math.max(one.box[axis], other.box[axis]);
    const common = Math.max(0, side(0)) * Math.max(0, side(1));
    return common > iou * (area(one) + area(other) - common);
  };
  const kept = [];
  for (const each of objects) if (!kept.some((better) => overlaps(better, each))) kept.push(each);
  return kept;
}

function classification({ logits }, { classes, limits }) {
  const most = Math.max(...logits.data);
  const powers = Array.from(logits.data, (value) => Math.exp(value - most));
  const sum = powers.reduce((one, other) => one + other);
  const best = range(powers.length).sort((one, other) => powers[other] - powers[one]);
  const found = best.slice(0, limits.topK);
  return { classes: found.map((index) => ({ class: classes[index], score: rounded(powers[index] / sum, 6) })) };
}

function detection({ boxes, scores, masks }, { classes, limits, place }) {
  const { size, scale, offset } = place;
  const limit = Math.fround(Math.max(limits.scoreThreshold, limits.confidenceThreshold));
  const candidates = [];
  scores.data.forEach((score, at) => {
    const [row, label] = [Math.floor(at / classes.length), at % classes.length];
    if (score < limit) return;
    const whole = range(4).map((side) => (boxes.data[4 * row + side] - offset[side % 2]) / scale[side % 2]);
    const box = whole.map((edge, side) => clip(edge, 0, size[side % 2]));
    if (box[2] > box[0] && box[3] > box[1]) candidates.push({ row, label, score, whole, box });
  });
  candidates.sort((one, other) => other.score - one.score);
  const each = classes.map((_, label) => candidates.filter((candidate) => candidate.label === label));
  const found = each.flatMap((members) => suppress(members, limits.nmsIou));
  found.sort((one, other) => other.score - one.score);
  const objects = suppress(found.slice(0, limits.maxDetections), ONE_OBJECT_IOU).map((one) => ({
    class: classes[one.label],
    score: rounded(one.score, 6),
    box: one.box.map((edge) => rounded(edge, 2)),
    ...(masks && pixels(masks, one, size)),
  }));
  return { objects };
}

/** Those of an object, of which there are probabilities on a grid over its box: how many, and COCO's run lengths (not
 * compressed: down the columns of the image, in turn of the rest and of the object). */
function pixels(masks, { row, whole }, [width, height]) {
  const side = masks.dims[3];
  const grid = (axis, length) =>
    range(length).map((at) => {
      const outside = at + 1 <= whole[axis] || at >= whole[axis + 2];
      return outside ? [] : between(((at + 0.5 - whole[axis]) / (whole[axis + 2] - whole[axis])) * side - 0.5, side);
    });
  const value = (columns, lines) => {
    let sum = 0;
    for (const [x, across] of columns)
      for (const [y, down] of lines) sum += across * down * masks.data[(row * side + y) * side + x];
    return sum;
  };
  const counts = [0];
  const add = (inside, length) => {
    if ((counts.length % 2 === 0) !== inside) counts.push(0);
    counts[counts.length - 1] += length;
  };
  const down = grid(1, height);
  for (const columns of grid(0, width))
    if (columns.length) for (const lines of down) add(value(columns, lines) >= 0.5, 1);
    else add(false, height);
  const inside = counts.reduce((sum, length, index) => sum + (index % 2 ? length : 0), 0);
  return { pixels: inside, mask: { size: [height, width], counts } };
}

function segmentation({ logits }, { classes, place }) {
  const { size, input, scale, offset } = place;
  const low = offset.map((edge) => Math.max(0, edge));
  const high = input.map((length, axis) => Math.min(length, even(offset[axis] + size[axis] * scale[axis])));
  const shown = { width: high[0] - low[0], height: high[1] - low[1] };
  const planes = new Float32Array(classes.length * shown.width * shown.height).map((_, at) => {
    const [plane, pixel] = [Math.floor(at / (shown.width * shown.height)), at % (shown.width * shown.height)];
    const [x, y] = [low[0] + (pixel % shown.width), low[1] + Math.floor(pixel / shown.width)];
    return logits.data[(plane * input[1] + y) * input[0] + x];
  });
  const [across, down] = size.map((length, axis) => {
    const [first, last] = [0, input[axis]].map((edge) => even(clip((edge - offset[axis]) / scale[axis], 0, length)));
    return last - first; // what a crop cut off has no class
  });
  const smooth = resize(planes, classes.length, shown, { width: across, height: down }, true);
  const counts = classes.map(() => 0);
  for (let pixel = 0; pixel < across * down; pixel++) {
    let best = 0;
    for (let plane = 1; plane < classes.length; plane++)
      if (smooth[plane * across * down + pixel] > smooth[best * across * down + pixel]) best = plane;
    counts[best]++;
  }
  const found = range(classes.length).filter((index) => counts[index]);
  const named = found.map((index) => ({ class: classes[index], pixels: counts[index] }));
  return { width: size[0], height: size[1], classes: named };
}

const DECODE = {
  Classification: classification,
  Detection: detection,
  SemanticSegmentation: segmentation,
  InstanceSegmentation: detection,
};

export async function load(ort, read) {
  const text = async (name) => new TextDecoder().decode(await read(name));
  const model = JSON.parse(await text("model.json"));
  const classes = (await text("labels.txt")).trimEnd().split("\n");
  const session = await ort.InferenceSession.create(new Uint8Array(await read(model.file)));
  const { width, height } = model.preprocessing.size;
  return async (image) => {
    const { tensor, place } = prepare(image, model.preprocessing);
    const outputs = await session.run({ image: new ort.Tensor("float32", tensor, [1, 3, height, width]) });
    return DECODE[model.task](outputs, { classes, limits: model.postprocessing, place });
  };
}
