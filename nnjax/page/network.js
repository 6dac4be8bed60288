// The network in the page: what nnjax computes for one example, in the same words.
//
//     BP1   δ^L = ∇_a C ⊙ σ'(z^L)                     the error at the output
//     BP2   δ^l = ((w^{l+1})ᵀ δ^{l+1}) ⊙ σ'(z^l)      carried back one layer
//     BP3   ∂C/∂b_j = δ_j                             the gradient of the biases
//     BP4   ∂C/∂w_jk = a_k δ_j                        the gradient of the weights
//
// Arrays are flat, of doubles, the last axis fastest: an image is (height, width, channels), weights
// are (outputs, ..., inputs). `feedforward` and `backprop` below are the algorithm; the tables above
// them say what each activation function, loss and kind of layer contributes.

// ---------------------------------------------------------------- activation functions

const each = (array, f) => { // Float64Array.from takes many times as long
  const made = new Float64Array(array.length);
  for (let i = 0; i < made.length; i++) made[i] = f(array[i], i);
  return made;
};
const sum = (array) => array.reduce((total, value) => total + value, 0);
const largest = (array) => array.reduce((most, value) => Math.max(most, value), -Infinity);
const logistic = (z) => (z >= 0 ? 1 / (1 + Math.exp(-z)) : Math.exp(z) / (1 + Math.exp(z)));
const softplus = (z) => Math.max(z, 0) + Math.log1p(Math.exp(-Math.abs(z)));
const TINY = 2 ** -126; // the smallest normal number in float32

// erfc(x) = 1 − erf(x): the series of erf near 0, else a continued fraction, from its end.
function erfc(x) {
  if (x < 0) return 2 - erfc(-x);
  if (x < 2.5) {
    let [term, total] = [x, x];
    for (let n = 1; Math.abs(term) > 1e-17 * total; n++) {
      term *= -(x * x) / n;
      total += term / (2 * n + 1);
    }
    return 1 - (2 / Math.sqrt(Math.PI)) * total;
  }
  let fraction = x;
  for (let n = 60; n > 0; n--) fraction = x + n / 2 / fraction;
  return Math.exp(-x * x) / (fraction * Math.sqrt(Math.PI));
}

function logSumExp(z) {
  const top = largest(z);
  return top === -Infinity ? top : top + Math.log(sum(each(z, (v) => Math.exp(v - top))));
}

// a = f(z), and δ = g ⊙ σ'(z), given σ' as a function of z and a.
const elementwise = (f, slope) => ({
  at: (z) => each(z, f),
  pullBack: (z, a, g) => each(g, (v, j) => v * slope(z[j], a[j])),
});

// A perceptron has no useful derivative: no error passes through it.
const perceptron = (f) => ({ at: (z) => each(z, f) });

// By name; each is made from its description, which holds the parameters that it may have.
// Those whose outputs are probabilities give ln a and ln(1 − a) as functions of z, and their
// pull-backs, so that losses stay exact where a rounds to 0 or 1.
const ACTIVATIONS = {
  sigmoid: () => ({
    ...elementwise(logistic, (z, a) => a * (1 - a)),
    log: (z) => each(z, (v) => -softplus(-v)),
    logComplement: (z) => each(z, (v) => -softplus(v)),
    pullBackLog: (z, a, g) => each(g, (v, j) => v * logistic(-z[j])),
    pullBackLogComplement: (z, a, g) => each(g, (v, j) => -v * a[j]),
  }),
  tanh: () => elementwise(Math.tanh, (z, a) => (1 + a) * (1 - a)),
  relu: () => elementwise((z) => Math.max(z, 0), (z) => (z > 0 ? 1 : 0)),
  leaky_relu: ({ slope }) =>
    elementwise((z) => (z > 0 ? z : slope * z), (z) => (z > 0 ? 1 : slope)),
  elu: ({ alpha }) =>
    elementwise(
      (z) => (z > 0 ? z : alpha * Math.expm1(z)),
      (z) => (z > 0 ? 1 : alpha * Math.exp(z)),
    ),
  softplus: () => elementwise(softplus, logistic),
  silu: () =>
    elementwise((z) => z * logistic(z), (z, a) => logistic(z) + a * (1 - logistic(z))),
  gelu: () => {
    const below = (z) => erfc(-z / Math.SQRT2) / 2; // Φ(z)
    const density = (z) => Math.exp((-z * z) / 2) / Math.sqrt(2 * Math.PI);
    return elementwise((z) => z * below(z), (z) => below(z) + z * density(z));
  },
  gelu_tanh: () => {
    const factor = Math.sqrt(2 / Math.PI);
    const share = (z) => logistic(2 * factor * (z + 0.044715 * z ** 3));
    const slope = (z) => factor * (1 + 3 * 0.044715 * z ** 2);
    return elementwise(
      (z) => z * share(z),
      (z) => share(z) + z * share(z) * (1 - share(z)) * 2 * slope(z),
    );
  },
  absolute: () => elementwise(Math.abs, Math.sign),
  identity: () => elementwise((z) => z, () => 1),
  softmax: ({ scale }) => {
    const log = (z) => {
      const scaled = each(z, (v) => scale * v);
      const total = logSumExp(scaled);
      return each(scaled, (v) => v - total);
    };
    const without = (z, j) => each(z, (v, k) => (k === j ? -Infinity : v));
    return {
      at: (z) => each(log(z), Math.exp),
      pullBack: (z, a, g) => {
        const mean = sum(each(g, (v, j) => v * a[j])); // ⟨g, a⟩
        return each(g, (v, j) => scale * a[j] * (v - mean));
      },
      log,
      logComplement: (z) => {
        const logs = log(z);
        return each(z, (_, j) => (z.length === 1 ? Math.log(TINY) : logSumExp(without(logs, j))));
      },
      pullBackLog: (z, a, g) => {
        const total = sum(g);
        return each(g, (v, j) => scale * (v - a[j] * total));
      },
      pullBackLogComplement: (z, a, g) => {
        if (z.length === 1) return each(z, () => 0);
        const total = sum(g);
        const back = each(a, (v) => -v * total);
        for (let j = 0; j < z.length; j++) {
          each(log(without(z, j)), Math.exp).forEach((p, k) => (back[k] += g[j] * p));
        }
        return each(back, (v) => scale * v);
      },
    };
  },
  step: () => perceptron((z) => (z > 0 ? 1 : 0)),
  sign: () => perceptron(Math.sign),
};

// ---------------------------------------------------------------- losses

// ln p of p read as a probability, and its derivative, which is 0 outside (0, 1).
const logOf = (p) => Math.log(Math.min(Math.max(p, TINY), 1));
const slopeOfLog = (p) => (p < TINY || p > 1 ? 0 : 1 / p);

// at(σ, z, a, y) is C_x; outputError(σ, z, a, y) is BP1.
const LOSSES = {
  quadratic: {
    at: (sigma, z, a, y) => sum(each(a, (v, j) => (v - y[j]) ** 2)) / 2,
    outputError: (sigma, z, a, y) => sigma.pullBack(z, a, each(a, (v, j) => v - y[j])),
  },
  cross_entropy: {
    at: (sigma, z, a, y) => {
      const log = sigma.log ? sigma.log(z) : each(a, logOf);
      const complement = sigma.log ? sigma.logComplement(z) : each(a, (v) => logOf(1 - v));
      return -sum(each(y, (v, j) => times(v, log[j]) + times(1 - v, complement[j])));
    },
    outputError: (sigma, z, a, y) => {
      if (!sigma.log) {
        const slope = (v, j) => (1 - y[j]) * slopeOfLog(1 - v) - y[j] * slopeOfLog(v);
        return sigma.pullBack(z, a, each(a, slope));
      }
      const one = sigma.pullBackLog(z, a, each(y, (v) => -v));
      const other = sigma.pullBackLogComplement(z, a, each(y, (v) => v - 1));
      return each(one, (v, j) => v + other[j]);
    },
  },
  log_likelihood: {
    at: (sigma, z, a, y) => {
      const log = sigma.log ? sigma.log(z) : each(a, logOf);
      return -sum(each(y, (v, j) => times(v, log[j])));
    },
    outputError: (sigma, z, a, y) =>
      sigma.log
        ? sigma.pullBackLog(z, a, each(y, (v) => -v))
        : sigma.pullBack(z, a, each(a, (v, j) => -y[j] * slopeOfLog(v))),
  },
};

const times = (y, log) => (y === 0 ? 0 : y * log); // 0 ln 0 = 0

// ---------------------------------------------------------------- layers

// Calls visit(place, input, tap) for every input under every window of a (height, width, channels)
// image: the number of the window, where the channels of the input begin, its number in the window.
function windows({ inShape, outShape, kernel, stride, margins, dilation }, visit) {
  const [height, width, channels] = inShape;
  const [rows, columns] = outShape;
  for (let y = 0; y < rows; y++)
    for (let x = 0; x < columns; x++)
      for (let i = 0; i < kernel[0]; i++)
        for (let k = 0; k < kernel[1]; k++) {
          const row = stride[0] * y + dilation[0] * i - margins[0];
          const column = stride[1] * x + dilation[1] * k - margins[1];
          if (row >= 0 && row < height && column >= 0 && column < width)
            visit(y * columns + x, (row * width + column) * channels, i * kernel[1] + k);
        }
}

// Pooling: `value` makes z of the inputs of a window, `share` says how much of δ each one gets.
const pool = (layer, value, share) => {
  const channels = layer.inShape[2];
  const inputs = Array.from({ length: size(layer.outShape) }, () => []); // of each window
  windows(layer, (place, input) => {
    for (let c = 0; c < channels; c++) inputs[place * channels + c].push(input + c);
  });
  return {
    forward: (params, a) => each(inputs, (window) => value(window.map((i) => a[i]))),
    pullBack: (params, a, z, delta) => {
      const g = new Float64Array(a.length);
      inputs.forEach((window, t) => {
        const shares = share(window.map((i) => a[i]), z[t]);
        window.forEach((i, position) => (g[i] += shares[position] * delta[t]));
      });
      return g;
    },
  };
};

const size = (shape) => shape.reduce((product, n) => product * n, 1);
const passed = { forward: (params, a) => a, pullBack: (params, a, z, delta) => delta };

// By kind: forward(params, a) is z; pullBack(params, a, z, δ) is ∂C/∂a, the first half of BP2;
// gradients(params, a, δ) are BP3 and BP4, of layers that have parameters.
const LAYERS = {
  dense: ({ inShape: [K], outShape: [J] }) => ({
    forward: ({ w, b }, a) =>
      each(b, (bias, j) => {
        let z = bias;
        for (let k = 0; k < K; k++) z += w[j * K + k] * a[k]; // z_j = Σ_k w_jk a_k + b_j
        return z;
      }),
    pullBack: ({ w }, a, z, delta) => {
      const g = new Float64Array(K);
      for (let j = 0; j < J; j++)
        for (let k = 0; k < K; k++) g[k] += w[j * K + k] * delta[j]; // wᵀ δ
      return g;
    },
    gradients: (params, a, delta) => {
      const w = new Float64Array(J * K);
      for (let j = 0; j < J; j++)
        for (let k = 0; k < K; k++) w[j * K + k] = a[k] * delta[j]; //  BP4
      return { w, b: delta.slice() }; //                                BP3
    },
  }),
  conv: (layer) => {
    const [C, J, G] = [layer.inShape[2], layer.outShape[2], layer.groups];
    const [channels, filters] = [C / G, J / G]; // of one group, whose filters see its channels alone
    const K = size(layer.kernel) * channels; // inputs of one neuron
    const groups = [...Array(G).keys()];
    return {
      forward: ({ w, b }, a) => {
        const z = new Float64Array(size(layer.outShape));
        for (let t = 0; t < z.length; t++) z[t] = b[t % J];
        const byInput = new Float64Array(K * J); // the weights, those of one input side by side
        for (let j = 0; j < J; j++) for (let k = 0; k < K; k++) byInput[k * J + j] = w[j * K + k];
        windows(layer, (place, input, tap) => {
          for (const g of groups)
            for (let c = 0; c < channels; c++) {
              const value = a[input + g * channels + c];
              if (value === 0) continue; // paper, and neurons that are off
              const weight = (tap * channels + c) * J;
              for (let j = g * filters; j < (g + 1) * filters; j++)
                z[place * J + j] += byInput[weight + j] * value;
            }
        });
        return z;
      },
      pullBack: ({ w }, a, z, delta) => {
        const back = new Float64Array(a.length);
        windows(layer, (place, input, tap) => {
          for (let j = 0; j < J; j++) {
            const d = delta[place * J + j];
            if (d === 0) continue; // no error: the neuron was off, or not the largest of its pool
            const first = input + Math.floor(j / filters) * channels;
            const weight = j * K + tap * channels;
            for (let c = 0; c < channels; c++) back[first + c] += w[weight + c] * d; // wᵀ δ
          }
        });
        return back;
      },
      gradients: (params, a, delta) => {
        const [w, b] = [new Float64Array(J * K), new Float64Array(J)];
        for (let t = 0; t < delta.length; t++) b[t % J] += delta[t]; //               BP3
        windows(layer, (place, input, tap) => {
          for (let j = 0; j < J; j++) {
            const d = delta[place * J + j];
            if (d === 0) continue;
            const first = input + Math.floor(j / filters) * channels;
            const weight = j * K + tap * channels;
            for (let c = 0; c < channels; c++) w[weight + c] += a[first + c] * d; //  BP4
          }
        });
        return { w, b };
      },
    };
  },
  pool: (layer) => {
    const first = (values) => values.indexOf(largest(values)); // of equal ones the first wins
    return pool(layer, largest, (values) => values.map((_, i) => (i === first(values) ? 1 : 0)));
  },
  meanpool: (layer) =>
    pool(layer, (values) => sum(values) / values.length, (values) => values.map(() => 1 / values.length)),
  l2pool: (layer) =>
    pool(layer, (values) => Math.hypot(...values), (values, z) => values.map((a) => (z === 0 ? 0 : a / z))),
  dropout: () => passed, // at inference nothing is dropped
  flatten: () => passed,
  add: () => passed, // the network adds what `skip` says
  layernorm: ({ epsilon }) => {
    const statistics = (a) => {
      const mean = sum(a) / a.length;
      const variance = sum(each(a, (v) => (v - mean) ** 2)) / a.length;
      const inverse = 1 / Math.sqrt(variance + epsilon);
      return { u: each(a, (v) => (v - mean) * inverse), inverse };
    };
    return {
      forward: ({ gamma, beta }, a) =>
        each(statistics(a).u, (u, k) => gamma[k] * u + beta[k]),
      pullBack: ({ gamma }, a, z, delta) => {
        const { u, inverse } = statistics(a);
        const h = each(delta, (d, k) => gamma[k] * d);
        const [shift, scale] = [sum(h) / h.length, sum(each(h, (v, k) => v * u[k])) / h.length];
        return each(h, (v, k) => inverse * (v - shift - u[k] * scale));
      },
      gradients: (params, a, delta) => {
        const { u } = statistics(a);
        return { gamma: each(delta, (d, k) => d * u[k]), beta: delta.slice() }; // BP4, BP3
      },
    };
  },
};

// ---------------------------------------------------------------- the algorithm

function float32(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return Float64Array.from(new Float32Array(bytes.buffer));
}

// The entries of an object, each made into another by f; nothing stays nothing.
const mapped = (object, f) =>
  object && Object.fromEntries(Object.entries(object).map(([name, value]) => [name, f(value, name)]));

const plus = (a, b) => each(a, (value, i) => value + b[i]);

// The network and the parameters of a description, as nnjax.page.network writes it.
function read(description) {
  const layers = description.layers.map((layer) => ({
    ...layer,
    ...LAYERS[layer.kind](layer),
    activation: ACTIVATIONS[layer.activation.name](layer.activation),
  }));
  const net = { layers, loss: LOSSES[description.loss] };
  net.learns = layers.every((layer) => layer.activation.pullBack);
  const params = description.layers.map(({ params }) => mapped(params, float32));
  return [net, params];
}

function feedforward(net, params, x) {
  const [activations, weightedInputs] = [[x], []]; // a⁰ = x, a¹, …, a^L and z¹, …, z^L
  net.layers.forEach((layer, l) => {
    const own = layer.forward(params[l], activations[l]);
    const z = layer.skip ? plus(own, activations[l - layer.skip]) : own;
    weightedInputs.push(z);
    activations.push(layer.activation.at(z));
  });
  return { activations, weightedInputs };
}

function backprop(net, params, x, y) {
  const { activations: a, weightedInputs: z } = feedforward(net, params, x);
  const L = net.layers.length;
  const output = net.layers[L - 1].activation;
  const loss = net.loss.at(output, z[L - 1], a[L], y);
  const errors = Array(L);
  errors[L - 1] = net.loss.outputError(output, z[L - 1], a[L], y); //             BP1
  for (let l = L - 1; l > 0; l--) {
    let g = net.layers[l].pullBack(params[l], a[l], z[l], errors[l]); //           BP2: wᵀδ
    net.layers.forEach((layer, m) => {
      if (layer.skip && m - layer.skip === l) g = plus(g, errors[m]); // what came round a block
    });
    errors[l - 1] = net.layers[l - 1].activation.pullBack(z[l - 1], a[l], g); //   BP2: ⊙ σ'(z)
  }
  const grads = net.layers.map((layer, l) => params[l] && layer.gradients(params[l], a[l], errors[l]));
  return { loss, activations: a, weightedInputs: z, errors, grads }; //            BP3, BP4
}

// One step of gradient descent: w → w − η ∂C/∂w, b → b − η ∂C/∂b.
function sgdStep(params, grads, eta) {
  const moved = (values, slopes) => each(values, (v, i) => v - eta * slopes[i]);
  return params.map((p, l) => mapped(p, (values, name) => moved(values, grads[l][name])));
}
