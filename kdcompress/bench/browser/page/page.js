// The page: what will be measured and by what, a button, progress, the result. worker.js measures.

const $ = (id) => document.getElementById(id)
const SILENT = 3 // posts in a row that may fail before the computer counts as gone
const SIMD = Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15,
  253, 98, 11) // the smallest module with a vector instruction

let page = null // what the server knows this page by while it measures
let worker = null
let hidden = false
let last = { share: 0, what: 'starting' }

function make(tag, text, attributes = {}) {
  const element = document.createElement(tag)
  if (text != null) element.textContent = text
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value)
  return element
}

async function post(path, body) {
  const response = await fetch(path, { method: 'POST', body: JSON.stringify(body) })
  const answer = await response.json().catch(() => ({}))
  if (!response.ok) throw Object.assign(new Error(answer.why ?? `the computer answers ${response.status}`), { refused: true })
  return answer
}

const ms = (value) => (value == null ? '–' : value < 10 ? value.toFixed(3) : value < 100 ? value.toFixed(2) : value.toFixed(1))
const mib = (bytes) => (bytes < 2 ** 20 ? `${(bytes / 1024).toFixed(0)} KiB` : `${(bytes / 2 ** 20).toFixed(1)} MiB`)

// What the device is, as far as a browser tells.
async function device(job) {
  const agent = navigator.userAgentData
  const more = await agent?.getHighEntropyValues?.(['architecture', 'model', 'platformVersion']).catch(() => null)
  const battery = await navigator.getBattery?.().catch(() => null)
  const info = job.provider === 'webgpu' && (await navigator.gpu?.requestAdapter().catch(() => null))?.info
  return {
    platform: [agent?.platform ?? navigator.platform, more?.platformVersion].filter(Boolean).join(' ') || null,
    model: more?.model || null,
    architecture: more?.architecture || null,
    threads: navigator.hardwareConcurrency ?? null,
    memory_gib: navigator.deviceMemory ?? null,
    isolated: self.crossOriginIsolated === true,
    secure: self.isSecureContext === true,
    gpu: info ? [info.vendor, info.architecture, info.description].filter(Boolean).join(' ') || null : null,
    charging: battery?.charging ?? null,
    hidden,
  }
}

// Why this browser cannot measure; null: it can.
async function unfit(job) {
  if (typeof WebAssembly !== 'object' || !WebAssembly.validate(SIMD)) {
    return 'This browser has no WebAssembly SIMD, which onnxruntime-web needs: Chrome 91, Firefox 89 or Safari 16.4 have it.'
  }
  if (job.provider === 'webgpu' && !(await navigator.gpu?.requestAdapter().catch(() => null))) {
    const insecure = self.isSecureContext ? '' : ' Browsers have it only on https and loopback addresses.'
    return `This browser offers no WebGPU here.${insecure}`
  }
  return null
}

function problem(text) {
  $('problem').textContent = text
  $('problem').hidden = false
  $('run').hidden = true
}

function show(job, it, browser) {
  for (const { label, precision, bytes } of job.subjects) {
    const row = make('div')
    row.append(make('b', label), make('span', `${precision}, ${mib(bytes)}`, { class: 'soft' }))
    $('models').append(row)
  }
  const seconds = job.seconds * job.subjects.length
  const threads = it.isolated ? job.threads : 1
  const facts = {
    'this browser': browser,
    'runs on': job.provider === 'webgpu' ? 'the GPU, through WebGPU' : `the CPU, ${threads} ${threads === 1 ? 'thread' : 'threads'}`,
    clock: it.isolated ? 'fine (cross-origin isolated)' : 'coarse: queries are timed several at a time',
    time: `${seconds < 90 ? `${Math.ceil(seconds)} s` : `${Math.ceil(seconds / 60)} minutes`} or more (effort ${job.effort})`,
  }
  for (const [name, value] of Object.entries(facts)) $('facts').append(make('dt', name), make('dd', value))
}

function progress({ share, what }) {
  if (what !== last.what) $('doing').textContent = what.charAt(0).toUpperCase() + what.slice(1).replace(/, round.*/, '')
  last = { share, what }
  $('bar').value = share
  $('share').textContent = Math.round(100 * share)
  $('left').textContent = what.includes('round') ? `, ${what.replace(/.*(round)/, '$1')}` : ''
}

function outcome(answer) {
  const columns = ['model', 'p90 ms', 'queries', 'load ms', 'first call ms', 'outputs']
  const numbers = columns.slice(1, -1)
  $('columns').append(...columns.map((name) => make('th', name, { scope: 'col', class: numbers.includes(name) ? 'number' : '' })))
  for (const row of answer.rows) {
    const tile = make('div', null, { class: 'card tile' })
    const big = make('div', ms(row.median_ms), { class: 'big' })
    if (row.median_ms != null) big.append(make('span', '\u2009ms', { class: 'unit' }))
    const { median, low, high, verdict } = row.ratio ?? {}
    const ratio = median && `${median.toFixed(2)} [${low.toFixed(2)}, ${high.toFixed(2)}] times ${answer.baseline}: ${verdict}`
    tile.append(make('div', row.name, { class: 'name' }), big)
    tile.append(make('div', row.failed ? `failed: ${row.failed}` : ratio || 'median of a query', { class: 'than' }))
    $('tiles').append(tile)
    const line = make('tr')
    line.append(make('th', row.name, { scope: 'row' }))
    const values = [ms(row.p90_ms), row.n, ms(row.load_ms), ms(row.first_call_ms)]
    line.append(...values.map((value, i) => make('td', value, { class: 'number', 'data-name': numbers[i] })))
    const same = row.parity?.passed
    const outputs = make('td', null, { class: 'wide', 'data-name': 'outputs' })
    const said = same ? 'as on the computer' : row.parity ? `not as on the computer: ${row.parity.why}` : 'none'
    outputs.append(make('span', said, { class: `tag ${same ? 'met' : 'missed'}` }))
    line.append(outputs)
    $('rows').append(line)
  }
  for (const [label, images] of Object.entries(answer.seen)) {
    const row = make('div', null, { class: 'seen' })
    for (const { image, said } of images) {
      const figure = make('figure')
      figure.append(make('img', null, { src: image, alt: `Found: ${said}` }), make('figcaption', said, { class: 'soft' }))
      row.append(figure)
    }
    $('seen').append(make('h4', label), row)
    $('seen').hidden = false
  }
  $('notes').append(...answer.notes.map((note) => make('li', note)))
  for (const id of ['run', 'advice', 'intro']) $(id).hidden = true
  $('outcome').after($('what')) // below the result
  $('ready').textContent = 'What was measured'
  $('outcome').hidden = false
  $('sent').textContent = 'The computer has the result. You may close this page.'
  $('outcome').focus()
}

async function measure(job, it) {
  $('start').disabled = true
  $('problem').hidden = true
  try {
    page = (await post('claim', {})).page
  } catch (error) {
    $('start').disabled = false
    return problem(error.refused ? error.message : 'The computer does not answer: its command has ended, or the network is gone.')
  }
  hidden = document.hidden
  $('start').hidden = true
  $('run').hidden = false
  let lock = await navigator.wakeLock?.request('screen').catch(() => null)
  let failures = 0
  const beat = setInterval(async () => {
    try {
      await post('progress', { page, ...last })
      failures = 0
    } catch (error) {
      if (error.refused || ++failures >= SILENT) end(error.refused ? error.message : 'The computer has gone: its command was ended, or the network is.')
    }
  }, 1000)

  function end(why) {
    clearInterval(beat)
    worker?.terminate()
    worker = page = null
    lock?.release()
    lock = null
    if (why) problem(why)
  }

  async function failed(why) {
    const holder = page
    end(`It could not be measured: ${why}`)
    if (holder) await post('failed', { page: holder, why }).catch(() => null)
  }

  worker = new Worker('worker.js', { type: 'module' })
  worker.onerror = (event) => failed(event.message || 'the worker cannot be loaded')
  worker.onmessage = async ({ data }) => {
    if (data.share !== undefined) return progress(data)
    if (data.failed) return failed(data.failed)
    clearInterval(beat)
    try {
      const answer = await post('result', { page, ...data.result, device: { ...it, hidden } })
      end()
      outcome(answer)
    } catch (error) {
      end(error.refused ? error.message : 'It was measured, and the computer that wanted it has gone.')
    }
  }
  worker.postMessage(job)
}

addEventListener('pagehide', () => page && navigator.sendBeacon('gone', JSON.stringify({ page })))
document.addEventListener('visibilitychange', () => (hidden ||= page !== null && document.hidden))

try {
  const job = await (await fetch('job.json')).json()
  const it = await device(job)
  const { browser, busy } = await post('hello', {})
  show(job, it, browser)
  if (busy) problem('Another device, or another page, is measuring. This one can start only where that one gives up.')
  const why = await unfit(job)
  if (why) {
    problem(why)
    await post('unfit', { why })
  } else {
    $('start').addEventListener('click', () => measure(job, it))
    $('start').disabled = false
  }
} catch (error) {
  problem(`The computer does not answer as it should: ${error.message}. Open the address on its terminal again.`)
}
