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

const each = (array, f) => Float64Array.from(array, f);
const sum = (array) => array.reduce((total, value) => total + value, 0);
const largest = (array) => array.reduce((most, value) => Math.max(most, value), -Infinity);
const logistic = (z) => (z >= 0 ? 1 / (1 + Math.exp(-z)) : Math.exp(z) / (1 + Math.exp(z)));
const softplus = (z) => Math.max(z, 0) + Math.log1p(Math.exp(-Math.abs(z)));
const TINY = 2 ** -126; // the smallest normal number in float32

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

// Calls visit(place, input, weight) for every input under every window of a (height, width,
// channels) image; `input` and `weight` are where its channels begin.
function windows({ inShape, outShape, kernel, stride, margins }, visit) {
  const [height, width, channels] = inShape;
  const [rows, columns] = outShape;
  for (let y = 0; y < rows; y++)
    for (let x = 0; x < columns; x++)
      for (let i = 0; i < kernel[0]; i++)
        for (let k = 0; k < kernel[1]; k++) {
          const row = stride[0] * y + i - margins[0];
          const column = stride[1] * x + k - margins[1];
          if (row >= 0 && row < height && column >= 0 && column < width)
            visit(
              y * columns + x,
              (row * width + column) * channels,
              (i * kernel[1] + k) * channels,
            );
        }
}

// Pooling: `value` makes z of the inputs of a window, `share` says how much of δ each one gets.
const pool = (layer, value, share) => {
  const channels = layer.inShape[2];
  const taken = () => Array.from({ length: size(layer.outShape) }, () => []); // inputs by window
  const gather = () => {
    const inputs = taken();
    windows(layer, (place, input) => {
      for (let c = 0; c < channels; c++) inputs[place * channels + c].push(input + c);
    });
    return inputs;
  };
  const inputs = gather();
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
// gradients(a, δ) are BP3 and BP4, of layers that have parameters.
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
    gradients: (a, delta) => {
      const w = new Float64Array(J * K);
      for (let j = 0; j < J; j++)
        for (let k = 0; k < K; k++) w[j * K + k] = a[k] * delta[j]; //  BP4
      return { w, b: delta.slice() }; //                                BP3
    },
  }),
  conv: (layer) => {
    const [C, J, area] = [layer.inShape[2], layer.outShape[2], size(layer.kernel)];
    const K = area * C; // inputs of one neuron
    return {
      forward: ({ w, b }, a) => {
        const z = new Float64Array(size(layer.outShape));
        for (let t = 0; t < z.length; t++) z[t] = b[t % J];
        windows(layer, (place, input, weight) => {
          for (let j = 0; j < J; j++) {
            let total = 0;
            for (let c = 0; c < C; c++) total += w[j * K + weight + c] * a[input + c];
            z[place * J + j] += total;
          }
        });
        return z;
      },
      pullBack: ({ w }, a, z, delta) => {
        const g = new Float64Array(a.length);
        windows(layer, (place, input, weight) => {
          for (let j = 0; j < J; j++) {
            const d = delta[place * J + j];
            for (let c = 0; c < C; c++) g[input + c] += w[j * K + weight + c] * d; // wᵀ δ
          }
        });
        return g;
      },
      gradients: (a, delta) => {
        const [w, b] = [new Float64Array(J * K), new Float64Array(J)];
        for (let t = 0; t < delta.length; t++) b[t % J] += delta[t]; //          BP3
        windows(layer, (place, input, weight) => {
          for (let j = 0; j < J; j++) {
            const d = delta[place * J + j];
            for (let c = 0; c < C; c++) w[j * K + weight + c] += a[input + c] * d; // BP4
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
};

// ---------------------------------------------------------------- the algorithm

function float32(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return Float64Array.from(new Float32Array(bytes.buffer));
}

// The network and the parameters of a description, as nnjax.page.network writes it.
function read(description) {
  const layers = description.layers.map((layer) => ({
    ...layer,
    ...LAYERS[layer.kind](layer),
    activation: ACTIVATIONS[layer.activation.name](layer.activation),
  }));
  const net = { layers, loss: LOSSES[description.loss] };
  net.learns = layers.every((layer) => layer.activation.pullBack);
  const params = description.layers.map(({ w, b }) => w && { w: float32(w), b: float32(b) });
  return [net, params];
}

function feedforward(net, params, x) {
  const [activations, weightedInputs] = [[x], []]; // a⁰ = x, a¹, …, a^L and z¹, …, z^L
  net.layers.forEach((layer, l) => {
    const z = layer.forward(params[l], activations[l]);
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
    const g = net.layers[l].pullBack(params[l], a[l], z[l], errors[l]); //         BP2: wᵀδ
    errors[l - 1] = net.layers[l - 1].activation.pullBack(z[l - 1], a[l], g); //   BP2: ⊙ σ'(z)
  }
  const grads = net.layers.map((layer, l) => params[l] && layer.gradients(a[l], errors[l]));
  return { loss, activations: a, weightedInputs: z, errors, grads }; //            BP3, BP4
}

// One step of gradient descent: w → w − η ∂C/∂w, b → b − η ∂C/∂b.
function sgdStep(params, grads, eta) {
  const moved = (values, slopes) => each(values, (v, i) => v - eta * slopes[i]);
  return params.map((p, l) => p && { w: moved(p.w, grads[l].w), b: moved(p.b, grads[l].b) });
}
