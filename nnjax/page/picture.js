// A drawing in the form of the training images: what nnjax.data.images.prepare does of a picture,
// step by step, for a square of SIDE × SIDE grey levels whose paper is white.
//
// `prepare` also deals with photographs (a frame, paper in the shade), which a drawing does not have.

const SIDE = 128;

const rint = (value) => {
  const below = Math.floor(value);
  const rest = value - below;
  return rest < 0.5 || (rest === 0.5 && below % 2 === 0) ? below : below + 1; // halves to even
};

// The value that `rank` others are below, once the array has been sorted far enough to tell.
function selected(values, rank) {
  let [low, high] = [0, values.length - 1];
  while (low < high) {
    const pivot = values[(low + high) >> 1];
    let [i, k] = [low, high];
    while (i <= k) {
      while (values[i] < pivot) i++;
      while (values[k] > pivot) k--;
      if (i <= k) {
        const kept = values[i];
        values[i++] = values[k];
        values[k--] = kept;
      }
    }
    if (rank <= k) high = k;
    else if (rank >= i) low = i;
    else break;
  }
  return values[rank];
}

function median(values) {
  const copy = Float32Array.from(values);
  const half = copy.length >> 1;
  const above = selected(copy, half);
  return copy.length % 2 ? above : (selected(copy, half - 1) + above) / 2;
}

// An image is {rows, columns, levels}. This applies f, which makes one line of another, to every
// row (axis 1) or to every column (axis 0).
function along(axis, { rows, columns, levels }, f) {
  const [count, length] = axis ? [rows, columns] : [columns, rows];
  const line = new Float32Array(length);
  let out = null;
  for (let n = 0; n < count; n++) {
    const [start, step] = axis ? [n * columns, 1] : [n, columns];
    for (let i = 0; i < length; i++) line[i] = levels[start + i * step];
    const made = f(line);
    out ??= axis
      ? { rows, columns: made.length, levels: new Float32Array(rows * made.length) }
      : { rows: made.length, columns, levels: new Float32Array(made.length * columns) };
    const [first, apart] = axis ? [n * out.columns, 1] : [n, columns];
    for (let i = 0; i < made.length; i++) out.levels[first + i * apart] = made[i];
  }
  return out;
}

const nearest = (i, length) => Math.min(Math.max(i, 0), length - 1); // the place on the line

// Pillow's Gaussian blur: three box blurs along the rows, then three along the columns, whose
// length matches the variance; grey levels are rounded after each.
function blurred(image, radius) {
  const variance = radius ** 2 / 3;
  const whole = Math.floor((Math.sqrt(12 * variance + 1) - 1) / 2);
  const part =
    ((2 * whole + 1) * (whole * (whole + 1) - 3 * variance)) / (6 * (variance - (whole + 1) ** 2));
  const inner = Math.floor(2 ** 24 / (2 * (whole + part) + 1)); // weights in units of 2⁻²⁴
  const outer = Math.floor((2 ** 24 - (2 * whole + 1) * inner) / 2);
  const box = (line) => {
    const at = (i) => line[nearest(i, line.length)];
    const out = new Float32Array(line.length);
    let total = 0;
    for (let i = -whole; i <= whole; i++) total += at(i);
    for (let x = 0; x < line.length; x++) {
      const [before, after] = [at(x - whole - 1), at(x + whole + 1)];
      out[x] = Math.floor((total * inner + (before + after) * outer + 2 ** 23) / 2 ** 24);
      total += after - at(x - whole);
    }
    return out;
  };
  for (const axis of [1, 1, 1, 0, 0, 0]) image = along(axis, image, box);
  return image;
}

const FILTERS = {
  bilinear: { support: 1, at: (x) => Math.max(1 - Math.abs(x), 0) },
  lanczos: { support: 3, at: (x) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0) },
};
const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));

// Pillow's resize of a line of `length` levels: those in [low, high), as `count` of them.
function resampling(length, [low, high], count, { support, at }) {
  const scale = (high - low) / count;
  const stretch = Math.max(scale, 1); // a filter is as wide as what it sums up
  const sums = Array.from({ length: count }, (_, x) => {
    const centre = low + (x + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - support * stretch + 0.5), 0);
    const end = Math.min(Math.trunc(centre + support * stretch + 0.5), length);
    const weights = [];
    for (let i = first; i < end; i++) weights.push(at((i - centre + 0.5) / stretch));
    const total = sum(weights);
    return { first, weights: weights.map((weight) => weight / total) };
  });
  return (line) => {
    const out = new Float32Array(count);
    sums.forEach(({ first, weights }, x) => {
      let value = 0;
      for (let i = 0; i < weights.length; i++) value += line[first + i] * weights[i];
      out[x] = value;
    });
    return out;
  };
}

// The box [left, top, right, bottom] of an image, in the size [height, width].
function resized(image, [left, top, right, bottom], [height, width], filter) {
  const across = along(1, image, resampling(image.columns, [left, right], width, filter));
  return along(0, across, resampling(image.rows, [top, bottom], height, filter));
}

// The grey closing over a third of the picture, found on a coarse copy with a margin of paper: the
// largest, then the smallest level within a window, which leaves out strokes.
const COARSE = 64;
const MARGIN = SIDE / 4;

function closing(image, paper) {
  const block = (SIDE + 2 * MARGIN) / COARSE;
  const half = Math.floor(COARSE / 6);
  const means = (line) => {
    const out = new Float32Array(COARSE).fill(0);
    for (let i = 0; i < block * COARSE; i++) {
      const within = i >= MARGIN && i < MARGIN + SIDE;
      out[Math.floor(i / block)] += (within ? line[i - MARGIN] : paper) / block;
    }
    return out;
  };
  const largestAround = (line) => {
    const out = new Float32Array(COARSE);
    for (let x = 0; x < COARSE; x++) {
      let best = line[x];
      const end = Math.min(x + half, COARSE - 1);
      for (let i = Math.max(x - half, 0); i <= end; i++) if (line[i] > best) best = line[i];
      out[x] = best;
    }
    return out;
  };
  const negative = (image) => ({ ...image, levels: image.levels.map((level) => -level) });
  const dilated = (image) => along(1, along(0, image, largestAround), largestAround);
  const level = negative(dilated(negative(dilated(along(0, along(1, image, means), means)))));
  const inner = [MARGIN, MARGIN + SIDE].map((place) => place / block);
  return resized(level, [inner[0], inner[0], inner[1], inner[1]], [SIDE, SIDE], FILTERS.bilinear);
}

// How much darker each place is than the paper, from 0 to 1; null where nothing stands out.
function darkInk(grey, paper) {
  const around = closing(grey, paper).levels;
  const ink = grey.levels.map((level, i) => around[i] - level);
  const top = largest(ink);
  const strong = ink.filter((value) => value >= top / 2);
  const weak = ink.filter((value) => value < top / 2);
  const rest = weak.length ? weak : ink;
  const stroke = median(strong);
  const middle = median(rest);
  const noise = middle + 6 * median(rest.map((value) => Math.abs(value - middle)));
  if (stroke < Math.max(0.05, 1.25 * noise)) return null;
  const share = (value) => Math.min(Math.max((value - noise) / (stroke - noise), 0), 1);
  return { ...grey, levels: ink.map(share) };
}

// The picture prepared as MNIST was, (height, width) of levels 0 (paper) to 255 (ink); null if blank.
function prepare(levels, [height, width]) {
  const drawing = blurred({ rows: SIDE, columns: SIDE, levels }, SIDE / 200);
  const grey = { ...drawing, levels: drawing.levels.map((level) => level / 255) };
  const negative = { ...grey, levels: grey.levels.map((level) => 1 - level) };
  const ink = darkInk(grey, 1) ?? darkInk(negative, 0);
  if (!ink) return null;

  // Crop to the ink, and scale to the box.
  const crop = [SIDE, SIDE, 0, 0];
  ink.levels.forEach((value, i) => {
    if (value <= 0.3) return;
    const [row, column] = [Math.floor(i / SIDE), i % SIDE];
    crop[0] = Math.min(crop[0], column);
    crop[1] = Math.min(crop[1], row);
    crop[2] = Math.max(crop[2], column + 1);
    crop[3] = Math.max(crop[3], row + 1);
  });
  const [cropWidth, cropHeight] = [crop[2] - crop[0], crop[3] - crop[1]];
  const whole = height === 8 && width === 8; // the digits of scikit-learn fill the picture
  const share = whole ? 1 : 20 / 28;
  const middle = (side) => (whole ? (side - 1) / 2 : Math.floor(side / 2));
  const scale = Math.min((height * share) / cropHeight, (width * share) / cropWidth);
  const h = Math.max(1, rint(scale * cropHeight));
  const w = Math.max(1, rint(scale * cropWidth));
  const small = resized(ink, crop, [h, w], FILTERS.lanczos).levels.map((v) => Math.max(v, 0));
  const most = largest(small);
  const digit = small.map((value) => rint(255 * Math.fround(value / most)));

  // Centre by mass.
  const start = (side, length, place) => {
    let [mass, moment] = [0, 0];
    digit.forEach((value, i) => {
      mass += value;
      moment += value * place(i);
    });
    return Math.min(Math.max(rint(middle(side) - moment / mass), 0), side - length);
  };
  const top = start(height, h, (i) => Math.floor(i / w));
  const left = start(width, w, (i) => i % w);
  const prepared = new Float64Array(height * width);
  digit.forEach((value, i) => {
    prepared[(top + Math.floor(i / w)) * width + left + (i % w)] = value;
  });
  return prepared;
}

// Prepared levels in the form of the training images, as the network takes them.
function converted(prepared, { dtype, paper, ink }) {
  const values = each(prepared, (level) => paper + (ink - paper) * (level / 255));
  return dtype === "uint8" ? each(values, (v) => rint(v) / 255) : each(values, Math.fround);
}
