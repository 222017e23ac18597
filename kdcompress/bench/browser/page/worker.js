// Measures, by the protocol of kdcompress/bench/timing.py: rounds of one turn a model in random order, a turn being
// an untimed query and a timed one; load and first call apart; warm-up until two blocks agree. Where the browser's
// clock is too coarse for one query, a sample is the mean of several in a row.

let resolution // of the clock, ms

self.onmessage = async ({ data: job }) => {
  try {
    self.postMessage({ result: await measure(job) })
  } catch (error) {
    self.postMessage({ failed: reason(error) })
  }
}

const now = () => performance.now()
const reason = (error) => String(error?.message ?? error).slice(0, 400)
const median = (values) => {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

async function measure(job) {
  const say = (share, what) => self.postMessage({ share, what })
  say(0, 'downloading the runtime')
  const ort = await import(`./${job.module}`)
  const isolated = self.crossOriginIsolated === true
  ort.env.logLevel = 'error'
  ort.env.wasm.numThreads = isolated ? job.threads : 1
  ort.env.wasm.wasmPaths = new URL('ort/', self.location.href).href
  resolution = clockResolution()
  const options = { executionProviders: [job.provider], graphOptimizationLevel: 'all', logSeverityLevel: 3 }
  const begun = now()
  await ort.InferenceSession.create(new Uint8Array(1), options).catch(() => null) // starts the runtime; no model
  const startMs = now() - begun

  say(0.01, 'downloading the images')
  const images = await fetched('images.bin')
  const subjects = []
  for (const [i, given] of job.subjects.entries()) {
    say(0.02 + (0.08 * i) / job.subjects.length, `loading ${given.label}`)
    const subject = { ...given, failed: null, capped: null, warmup: 0, stable: false, count: 1, samples: [], used: 0 }
    subjects.push(subject)
    try {
      await load(ort, job, subject, images, options)
    } catch (error) {
      const when = subject.loadMs === undefined ? 'loading' : 'first call'
      subject.failed = `${when}: ${reason(error)}`
    }
  }
  const overheadUs = await overhead()
  const wallMs = await rounds(job, subjects, say)
  say(1, 'comparing the outputs')
  const results = {}
  for (const subject of subjects) {
    const found = subject.failed ? [] : await outputs(ort, job, subject, images).catch((error) => {
      subject.failed = `outputs: ${reason(error)}`
      return []
    })
    results[subject.label] = {
      failed: subject.failed,
      capped: subject.capped,
      load_ms: positive(subject.loadMs),
      first_call_ms: positive(subject.firstMs),
      warmup: subject.warmup,
      warmup_stable: subject.stable,
      queries_a_sample: subject.count,
      samples_ms: subject.samples,
      outputs: found,
    }
  }
  return {
    version: ort.env.versions.web ?? ort.env.versions.common,
    threads: ort.env.wasm.numThreads,
    start_ms: positive(startMs),
    resolution_us: 1000 * resolution,
    overhead_us: overheadUs,
    wall_s: wallMs / 1000,
    subjects: results,
  }
}

// A time of 0 on a coarse clock is one step at most.
const positive = (ms) => (ms === undefined ? null : Math.max(ms, resolution))

// The smallest step that performance.now() makes: 5 us where the page is isolated, else 100 us or 1 ms.
function clockResolution() {
  let smallest = Infinity
  let previous = now()
  const start = previous
  for (let i = 0; i < 1e7; i++) {
    const time = now()
    if (time > previous) smallest = Math.min(smallest, time - previous)
    previous = time
    if (time - start > 50) return Math.max(Math.round(smallest * 1e4) / 1e4, 1e-4)
  }
  throw new Error('the clock of this browser stands still (is its time virtual?)')
}

async function fetched(path) {
  const response = await fetch(path)
  if (!response.ok) throw new Error(`the computer answers ${response.status} for ${path}`)
  return new Uint8Array(await response.arrayBuffer())
}

// A query of these images, as the model takes it. Normalisation is in the model.
function query(ort, job, subject, images, rows) {
  const [height, width, channels] = job.image
  const area = height * width
  const one = area * channels
  const n = rows.length
  if (subject.layout === 'uint8-nhwc') {
    const data = new Uint8Array(n * one)
    rows.forEach((row, i) => data.set(images.subarray(row * one, (row + 1) * one), i * one))
    return { [subject.input]: new ort.Tensor('uint8', data, [n, height, width, channels]) }
  }
  const data = new Float32Array(n * one)
  rows.forEach((row, i) => {
    for (let at = 0; at < area; at++) {
      for (let c = 0; c < channels; c++) data[i * one + c * area + at] = images[row * one + at * channels + c] / 255
    }
  })
  return { [subject.input]: new ort.Tensor('float32', data, [n, channels, height, width]) }
}

async function load(ort, job, subject, images, options) {
  const bytes = await fetched(subject.url)
  subject.queries = subject.pool.map((rows) => query(ort, job, subject, images, rows))
  const start = now()
  subject.session = await ort.InferenceSession.create(bytes, options)
  subject.loadMs = now() - start
  const names = subject.outputs.map(({ name }) => name)
  subject.run = (feeds) => subject.session.run(feeds, names)
  subject.firstMs = await timed(subject, subject.queries[0], 1)
  await warmUp(job, subject)
}

// Mean ms of `count` queries in a row.
async function timed(subject, feeds, count) {
  const start = now()
  for (let i = 0; i < count; i++) await subject.run(feeds)
  return (now() - start) / count
}

// Queries a sample, so that the shortest of these samples, mean ms of `count` queries each, would have lasted long enough.
function enough(job, times, count) {
  const shortest = Math.max(Math.min(...times), resolution / 2 / count) // 0 on a coarse clock
  return Math.max(1, Math.ceil((job.steps * resolution) / shortest))
}

async function warmUp(job, subject, block = 10) {
  const { queries } = subject
  const start = now()
  const most = (1000 * job.seconds) / 4
  const least = Math.min(200, most / 2)
  let previous = 0
  for (let ms = 0; ms * subject.count < job.steps * resolution; ) {
    ms = await timed(subject, queries[subject.warmup % queries.length], subject.count)
    subject.warmup += subject.count
    if (ms * subject.count < job.steps * resolution) subject.count *= 2
  }
  for (;;) {
    const times = []
    for (let i = 0; i < block; i++) {
      times.push(await timed(subject, queries[subject.warmup % queries.length], subject.count))
      subject.warmup += subject.count
      if (now() - start > most) {
        subject.count = enough(job, times, subject.count)
        return
      }
    }
    const middle = median(times)
    subject.count = enough(job, times, subject.count)
    if (Math.abs(middle - previous) <= 0.05 * previous && now() - start >= least) {
      subject.stable = true
      return
    }
    previous = middle
  }
}

async function rounds(job, subjects, say) {
  const random = generator(job.seed)
  let active = subjects.filter((subject) => !subject.failed)
  const leastMs = 1000 * job.seconds * active.length
  const start = now()
  let reported = start
  let done = 0
  while (active.length) {
    const elapsed = now() - start
    if (elapsed >= leastMs && done >= job.queries) break
    if (start + elapsed - reported > 250) {
      reported = start + elapsed
      say(0.1 + 0.9 * Math.min(elapsed / leastMs, done / job.queries, 1), `measuring, round ${done}`)
    }
    if (done >= job.most) {
      for (const subject of active) subject.capped = `ended at ${job.most} queries, in ${(elapsed / 1000).toFixed(1)} s`
      break
    }
    const pick = Math.floor(random() * job.subjects[0].pool.length)
    for (const subject of shuffled(active, random)) {
      const { queries } = subject
      try {
        await subject.run(queries[(pick + 1) % queries.length])
        const ms = await timed(subject, queries[pick % queries.length], subject.count)
        subject.samples.push(positive(ms * subject.count) / subject.count)
        subject.used += ms * subject.count
      } catch (error) {
        subject.failed = `query ${done + 1}: ${reason(error)}`
        active = active.filter((other) => other !== subject)
      }
    }
    done++
    if (done >= job.queries) continue
    for (const subject of active.filter(({ used }) => used > 1000 * job.cap * job.seconds)) {
      subject.capped = `ended at ${done} of ${job.queries} queries, after ${(subject.used / 1000).toFixed(0)} s in them`
      active = active.filter((other) => other !== subject)
    }
  }
  return Math.max(now() - start, resolution)
}

// Median microseconds that timing adds to a query: one that does nothing, timed as any other.
async function overhead() {
  const nothing = { run: async () => null }
  const times = []
  for (let i = 0; i < 20; i++) {
    const start = now()
    for (let j = 0; j < 500; j++) await timed(nothing, null, 1)
    times.push((now() - start) / 500)
  }
  return 1000 * median(times)
}

// The outputs of the first images, each as base64 of float32. An image's are `size` numbers.
async function outputs(ort, job, subject, images) {
  const { batch } = subject
  const found = subject.outputs.map(({ size }) => new Float32Array(job.compared * size))
  for (let start = 0; start < job.compared; start += batch) {
    const rows = Array.from({ length: batch }, (_, i) => Math.min(start + i, job.compared - 1))
    const answer = await subject.run(query(ort, job, subject, images, rows))
    const count = Math.min(batch, job.compared - start)
    subject.outputs.forEach(({ name, size }, i) => found[i].set(answer[name].data.subarray(0, count * size), start * size))
  }
  return found.map(base64)
}

function base64(floats) {
  const bytes = new Uint8Array(floats.buffer)
  let text = ''
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192))
  return btoa(text)
}

function shuffled(values, random) {
  const order = [...values]
  for (let i = order.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1))
    ;[order[i], order[j]] = [order[j], order[i]]
  }
  return order
}

// Numbers in 0..1 from a seed: mulberry32.
function generator(seed) {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}
