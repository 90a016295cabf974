(() => {
'use strict';
const find = (what, at = document) => at.querySelector(what), all = (what, at = document) => [...at.querySelectorAll(what)];
const data = JSON.parse(find('#curves').textContent), charts = [];
const SVG = 'http://www.w3.org/2000/svg', crowd = data.learners.length > data.shown.length;
const off = new Set(crowd ? data.learners.map((_, i) => i).filter(i => !data.shown.includes(i)) : []);
let focus = null;

// All texts, names of learners among them, enter the page as text, never as markup.
function make(tag, attributes = {}, ...children) {
  const one = 'svg g path line rect text circle clipPath use style'.split(' ').includes(tag)
    ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) one.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) one.setAttribute(name, value === true ? '' : value);
  }
  one.append(...children);
  return one;
}

function number(value, seconds = false) {
  if (value === 0) return '0';
  const size = Math.abs(value), text = x => String(Number(x.toPrecision(3)));
  if (seconds && size < 1) return size < 1e-3 ? text(value * 1e6) + ' µs' : text(value * 1e3) + ' ms';
  for (const [unit, prefix] of [[1e15, 'P'], [1e12, 'T'], [1e9, 'G'], [1e6, 'M'], [1e3, 'k']])
    if (size >= unit && size >= 1e4) return text(value / unit) + ' ' + prefix;
  return size < 1e-3 ? value.toExponential(1).replace('.0e', 'e') : text(value) + (seconds ? ' s' : '');
}

function save(name, text, type) {
  const address = URL.createObjectURL(new Blob([text], {type}));
  make('a', {href: address, download: name}).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

const quoted = value => /[",\n]/.test(String(value)) ? `"${String(value).replaceAll('"', '""')}"` : String(value);
const csv = rows => rows.map(row => row.map(value => quoted(value ?? '')).join(',')).join('\n') + '\n';
const slug = text => text.replace(/[^A-Za-z0-9_]+/g, '-').slice(0, 60);

function scale(low, high, log, from, to) {
  const turn = log ? Math.log10 : x => x, a = turn(low), b = turn(high);
  const place = x => from + (turn(x) - a) / (b - a || 1) * (to - from);
  place.back = p => { const t = a + (p - from) / (to - from) * (b - a); return log ? 10 ** t : t; };
  if (log) {
    const every = b - a < 1.5 ? [1, 2, 5] : [1];
    place.ticks = [];
    for (let e = Math.floor(a); e <= b; e++) for (const m of every) {
      const t = m * 10 ** e;
      if (t >= low * 0.999 && t <= high * 1.001) place.ticks.push(t);
    }
    const step = Math.ceil(place.ticks.length / 8);
    place.ticks = place.ticks.filter((_, i) => i % step === 0);
    if (place.ticks.length > 1) return place;
  }
  const raw = (high - low) / 5 || 1, unit = 10 ** Math.floor(Math.log10(raw));
  const step = unit * [1, 2, 5, 10].find(m => m * unit >= raw);
  place.ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) place.ticks.push(Number((i * step).toPrecision(12)));
  return place;
}

class Chart {
  constructor(figure, given) {
    Object.assign(this, {figure, given, y: 0, logx: given.log, logy: given.logy, seeds: false, zoom: null});
    const button = (text, act) => make('button', {type: 'button', onclick: act}, text);
    const toggle = (text, key) => {
      const one = button(text, () => { this[key] = !this[key]; this.zoom = null; one.setAttribute('aria-pressed', this[key]); this.draw(); });
      one.setAttribute('aria-pressed', this[key]);
      return one;
    };
    const choice = make('select', {'aria-label': 'Vertical axis', onchange: () => { this.y = choice.selectedIndex; this.zoom = null; this.draw(); }},
      ...given.y.map(one => make('option', {}, one.label)));
    this.tools = make('div', {class: 'tools'}, choice, toggle('log x', 'logx'), toggle('log y', 'logy'),
      toggle('every seed', 'seeds'), button('reset', () => { this.zoom = null; this.draw(); }),
      button('CSV', () => save(slug(given.workload) + '.csv', this.table(), 'text/csv')),
      button('SVG', () => save(slug(given.workload) + '.svg', drawing(this.picture), 'image/svg+xml')));
    this.picture = make('svg', {class: 'altprop-figure live', role: 'img', 'aria-label': given.title,
      onpointermove: event => this.move(event), onpointerleave: () => this.leave(), onpointerdown: event => this.press(event),
      onpointerup: event => this.release(event), ondblclick: () => { this.zoom = null; this.draw(); }});
    this.tip = make('div', {class: 'tip', hidden: true});
    this.legend = make('div', {class: 'legend'});
    const hint = make('figcaption', {}, given.caption);
    figure.replaceChildren(make('strong', {}, given.title), this.tools, make('div', {class: 'stage'}, this.picture, this.tip), this.legend, hint);
    this.names();
    this.draw();
  }

  names() {
    const drawn = this.given.series.map(one => one.i);
    const entries = drawn.map(i => make('button', {
      type: 'button', 'data-learner': i, onclick: () => { off.has(i) ? off.delete(i) : off.add(i); redraw(); },
      onpointerenter: () => { focus = i; redraw(); }, onpointerleave: () => { focus = null; redraw(); }},
      make('svg', {viewBox: '0 0 24 12', 'aria-hidden': 'true'}, make('use', {href: '#k' + i})), data.learners[i].name));
    const set = (text, keep) => make('button', {type: 'button', class: 'set', onclick: () => {
      drawn.forEach(i => keep(i) ? off.delete(i) : off.add(i)); redraw(); }}, text);
    const sets = [set('all', () => true), set('none', () => false), ...(crowd ? [set('leading', i => data.shown.includes(i))] : [])];
    const search = crowd ? [make('input', {type: 'search', placeholder: 'search a learner', 'aria-label': 'Search a learner', oninput: event => {
      for (const one of entries) one.hidden = !one.textContent.toLowerCase().includes(event.target.value.toLowerCase()); }})] : [];
    this.legend.replaceChildren(...sets, ...search, ...entries);
  }

  draw() {
    const {given} = this, width = Math.max(280, this.figure.clientWidth), height = Math.min(400, Math.max(260, width * 0.42));
    const left = 58, right = 14, top = 10, bottom = 40, kind = currency(), axis = given.x.find(one => one.key === kind) ?? given.x[0];
    const shown = given.series.filter(one => !off.has(one.i) && one.y[this.y]);
    const good = (v, log) => v !== null && (!log || v > 0);
    const xs = shown.flatMap(one => one.x[axis.key] ?? []).filter(v => good(v, this.logx));
    const levels = this.y === 0 ? given.levels : [];
    const ys = shown.flatMap(one => one.y[this.y].flatMap(part => part ?? [])).concat(levels.map(one => one[1])).filter(v => good(v, this.logy));
    let [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    if (!xs.length || !ys.length) [x0, x1, y0, y1] = [this.logx ? 1 : 0, 10, this.logy ? 1 : 0, 10];
    if (x0 === x1) x1 = x0 ? x0 * 2 : 1;
    if (y0 === y1) y1 = y0 + (Math.abs(y0) || 1);
    if (!this.logy) { const room = (y1 - y0) * 0.04; y0 -= room; y1 += room; }
    if (this.zoom) [x0, x1, y0, y1] = this.zoom;
    const x = scale(x0, x1, this.logx, left, width - right), y = scale(y0, y1, this.logy, height - bottom, top);
    Object.assign(this, {box: {width, height, left, right, top, bottom}, at: {x, y}, axis, visible: shown});
    const clip = 'clip' + charts.indexOf(this) + '-' + slug(given.workload), parts = [];
    const text = (words, across, down, anchor, size = 11) =>
      parts.push(make('text', {x: across, y: down, 'text-anchor': anchor, style: `font-size:${size}px`}, words));
    for (const t of y.ticks) {
      parts.push(make('line', {x1: left, x2: width - right, y1: y(t), y2: y(t), stroke: 'var(--line)'}));
      text(number(t), left - 6, y(t) + 4, 'end');
    }
    for (const t of x.ticks) {
      parts.push(make('line', {x1: x(t), x2: x(t), y1: height - bottom, y2: height - bottom + 4, stroke: 'var(--soft)'}));
      text(number(t, axis.key === 'cpu_seconds'), Math.min(x(t), width - 18), height - bottom + 17, 'middle');
    }
    text(axis.label + (this.logx ? ', log scale' : ''), (left + width - right) / 2, height - 6, 'middle', 12);
    const lines = make('g', {'clip-path': `url(#${clip})`});
    let last = Infinity;
    for (const [name, value] of [...levels].sort((a, b) => y(b[1]) - y(a[1]))) if (value >= y0 && value <= y1) {
      lines.append(make('line', {x1: left, x2: width - right, y1: y(value), y2: y(value), stroke: 'var(--soft)', 'stroke-dasharray': '2 3'}));
      if (last - y(value) > 11) text(name, width - right - 2, (last = y(value)) - 3, 'end', 10);
    }
    const path = (across, down) => {
      let pen = 'M', out = '';
      across.forEach((a, n) => {
        if (!good(a, this.logx) || !good(down[n] ?? null, this.logy)) { pen = 'M'; return; }
        out += pen + x(a).toFixed(1) + ' ' + y(down[n]).toFixed(1); pen = 'L';
      });
      return out;
    };
    const stroke = (one, d, wide, opacity, dash) => d && lines.append(make('path', {d, fill: 'none', stroke: `var(--${data.learners[one.i].colour})`,
      'stroke-width': wide, opacity, 'stroke-linejoin': 'round', 'stroke-dasharray': dash, 'data-learner': one.i}));
    for (const one of [...shown].reverse()) {
      const across = one.x[axis.key] ?? [], style = data.learners[one.i], faint = focus !== null && focus !== one.i ? 0.18 : 1;
      if (this.y === 0 && (this.seeds || focus === one.i))
        stroke(one, one.seeds.map(seed => path(across, seed)).join(''), 0.8, 0.4 * faint, null);
      one.y[this.y].forEach((part, n) => part && stroke(one, path(n ? one.trained[axis.key] ?? [] : across, part), n ? 1.2 : 2 * style.width, n ? 0.7 * faint : faint, n ? '1 3' : style.dash));
    }
    this.hand = make('g', {});
    this.picture.replaceChildren(make('clipPath', {id: clip}, make('rect', {x: left, y: top, width: width - left - right, height: height - top - bottom})), ...parts, lines, this.hand);
    this.picture.setAttribute('viewBox', `0 0 ${width} ${height}`);
    for (const one of all('[data-learner]', this.legend)) {
      one.setAttribute('aria-pressed', !off.has(Number(one.dataset.learner)));
    }
  }

  spot(event) {
    const box = this.picture.getBoundingClientRect(), ratio = this.box.width / box.width;
    return [(event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio];
  }

  move(event) {
    const [px, py] = this.spot(event), {x, y} = this.at, {left, top} = this.box;
    if (this.start) {
      const [sx, sy] = this.start;
      this.hand.replaceChildren(make('rect', {x: Math.min(px, sx), y: Math.min(py, sy), width: Math.abs(px - sx), height: Math.abs(py - sy),
        fill: 'var(--c0)', opacity: 0.15}));
      return;
    }
    let best = null;
    for (const one of this.visible) {
      const across = one.x[this.axis.key] ?? [], down = one.y[this.y][0] ?? [];
      across.forEach((a, n) => {
        if (a === null || (down[n] ?? null) === null || (this.logx && a <= 0) || (this.logy && down[n] <= 0)) return;
        const far = Math.hypot(x(a) - px, y(down[n]) - py);
        if (!best || far < best.far) best = {far, one, n, a, value: down[n]};
      });
    }
    if (!best || best.far > 60) return this.leave();
    const {one, n, a, value} = best, seeds = one.seeds.map(seed => seed[n] ?? null).filter(v => v !== null);
    const rows = [make('b', {}, data.learners[one.i].name), `${this.given.y[this.y].label}: ${number(value)}`,
      `${this.axis.label}: ${number(a, this.axis.key === 'cpu_seconds')}`];
    const trained = one.y[this.y][1]?.[n] ?? null;
    if (trained !== null) rows.push(`train: ${number(trained)}`);
    if (this.y === 0 && seeds.length > 1) rows.push(`${seeds.length} seeds: ${number(Math.min(...seeds))} to ${number(Math.max(...seeds))}`);
    this.tip.replaceChildren(...rows.map(row => make('div', {}, row)));
    this.tip.hidden = false;
    const ratio = this.picture.getBoundingClientRect().width / this.box.width, across = x(a) * ratio;
    this.tip.style.left = Math.min(Math.max(0, across + 12), Math.max(0, this.box.width * ratio - this.tip.offsetWidth - 4)) + 'px';
    this.tip.style.top = Math.max(0, y(value) * ratio - this.tip.offsetHeight - 10) + 'px';
    this.hand.replaceChildren(make('circle', {cx: x(a), cy: y(value), r: 5, fill: 'none', stroke: `var(--${data.learners[one.i].colour})`, 'stroke-width': 2}));
  }

  leave() { this.tip.hidden = true; this.hand?.replaceChildren(); }

  press(event) { if (event.pointerType === 'mouse') this.start = this.spot(event); }

  release(event) {
    const [px, py] = this.spot(event), [sx, sy] = this.start ?? [px, py], {x, y} = this.at;
    this.start = null;
    if (Math.abs(px - sx) < 8 || Math.abs(py - sy) < 8) return this.hand.replaceChildren();
    this.zoom = [x.back(Math.min(px, sx)), x.back(Math.max(px, sx)), y.back(Math.max(py, sy)), y.back(Math.min(py, sy))];
    this.draw();
  }

  table() {
    const {given} = this, rows = [['learner', 'evaluation', ...given.x.map(one => one.key), ...given.y.map(one => one.label),
      ...given.seeds.map(seed => `${given.y[0].label}, seed ${seed}`)]];
    for (const one of given.series) (one.x[given.x[0].key] ?? []).forEach((_, n) => rows.push([data.learners[one.i].name, n,
      ...given.x.map(axis => one.x[axis.key]?.[n]), ...given.y.map((_, k) => one.y[k]?.[0]?.[n]), ...given.seeds.map((_, s) => one.seeds[s]?.[n])]));
    return csv(rows);
  }
}

// A drawing by itself has neither rules nor variables of the page: both are written into it.
function drawing(picture) {
  const style = getComputedStyle(document.documentElement), copy = picture.cloneNode(true);
  const rules = [...document.styleSheets[0].cssRules].map(rule => rule.cssText).filter(text => text.startsWith('.altprop-figure'));
  copy.setAttribute('xmlns', SVG);
  copy.prepend(make('style', {}, rules.join('')));
  return new XMLSerializer().serializeToString(copy).replace(/var\(--(\w+)\)/g, (_, name) => style.getPropertyValue('--' + name).trim());
}

function currency() { return find('input[name=x]:checked')?.id.slice(2) ?? 'flops'; }
function redraw() { for (const one of charts) if (one.figure.isConnected && one.figure.checkVisibility()) one.draw(); }

// Tables: a click on a head sorts, a search box filters, a long one shows the leading learners first.
function lively(table) {
  const body = table.tBodies[0], rows = [...body.rows], heads = [...(table.tHead?.rows[0].cells ?? [])];
  if (table.dataset.lively || rows.length < 3 || !heads.length) return;
  table.dataset.lively = 'yes';
  const value = (row, n) => {
    const cell = row.cells[n], words = cell?.dataset.sort ?? cell?.firstChild?.textContent ?? '', plain = words.replace(/[●○≥*]/g, '').replaceAll('−', '-').trim();
    const found = cell?.dataset.sort === 'inf' ? Infinity : cell?.dataset.sort === '-inf' ? -Infinity : parseFloat(plain);
    const unit = {k: 1e3, M: 1e6, G: 1e9, T: 1e12, P: 1e15, m: 1e-3, 'µ': 1e-6}[/^-?[\d.]+ ([kMGTP])|^-?[\d.]+ ([mµ])s/.exec(plain)?.slice(1).find(Boolean)] ?? 1;
    return Number.isNaN(found) ? (cell?.textContent.trim().toLowerCase() ?? '') : found * unit;
  };
  heads.forEach((head, n) => {
    if (!head.textContent.trim()) return;
    head.tabIndex = 0;
    head.classList.add('sorts');
    const sort = () => {
      // Numbers begin with the largest, words with the first.
      const before = head.getAttribute('aria-sort'), up = before ? before === 'descending' : typeof value(rows[0], n) === 'string';
      heads.forEach(one => one.removeAttribute('aria-sort'));
      head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
      const kept = [...rows].sort((a, b) => {
        const [v, w] = [value(a, n), value(b, n)];
        if (typeof v !== typeof w) return typeof v === 'string' ? 1 : -1;
        return (up ? 1 : -1) * (typeof v === 'string' ? v.localeCompare(w) : v - w || 0);
      });
      body.append(...kept);
    };
    head.addEventListener('click', sort);
    head.addEventListener('keydown', event => { if (event.key === 'Enter') sort(); });
  });
  const tools = make('div', {class: 'tools'}), box = table.closest('.scroll') ?? table;
  if (rows.length > 12) {
    const index = row => Number(find('use', row)?.getAttribute('href').slice(2) ?? NaN);
    const rest = rows.filter(row => crowd && !Number.isNaN(index(row)) && !data.shown.includes(index(row)));
    rest.forEach(row => row.classList.add('rest'));
    const search = make('input', {type: 'search', placeholder: 'search', 'aria-label': 'Search the table', oninput: () => {
      table.classList.toggle('all', search.value !== '' || more.getAttribute('aria-pressed') === 'true');
      for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(search.value.toLowerCase());
    }});
    const more = make('button', {type: 'button', 'aria-pressed': 'false', onclick: () => {
      more.setAttribute('aria-pressed', String(table.classList.toggle('all'))); }}, `all ${rows.length} rows`);
    tools.append(search, ...(rest.length ? [more] : []));
  }
  tools.append(make('button', {type: 'button', onclick: () => save('table.csv', csv([...table.rows].map(row => [...row.cells].map(cell => cell.textContent.trim()))), 'text/csv')}, 'CSV'));
  box.after(tools);
}

function savable(figure) {
  if (find('.save', figure)) return;
  const picture = find('svg', figure), act = () => save(slug(picture.getAttribute('aria-label')) + '.svg', drawing(picture), 'image/svg+xml');
  figure.append(make('button', {type: 'button', class: 'save', title: 'Save the figure', onclick: act}, 'SVG'));
}

// What belongs to a task that is not chosen waits as text, and becomes part of the page when it is.
function enliven(root) {
  for (const one of all('noscript.later', root)) one.outerHTML = one.textContent;
  for (const figure of all('figure[data-chart]', root)) if (!find('.live', figure)) charts.push(new Chart(figure, data.charts[Number(figure.dataset.chart)]));
  all('table', root).forEach(lively);
  all('figure:not([data-chart])', root).forEach(savable);
}

function choose(task) {
  for (const one of all('article[data-task]')) {
    one.hidden = task !== null && one.dataset.task !== task;
    if (!one.hidden) enliven(one);
  }
  redraw();
}

const tasks = [...new Set(all('article[data-task]').map(one => one.dataset.task))];
if (tasks.length > 1) {
  const select = make('select', {id: 'task', onchange: () => choose(select.selectedIndex ? select.value : null)},
    make('option', {}, 'all tasks'), ...tasks.map(task => make('option', {value: task}, task)));
  select.selectedIndex = 1;
  find('nav').append(make('label', {class: 'chooser'}, 'Task ', select));
}
document.documentElement.classList.add('alive');
choose(tasks.length > 1 ? tasks[0] : null);
all('main table').forEach(lively);
all('main figure:not([data-chart])').forEach(savable);
for (const one of all('input[name=x]')) one.addEventListener('change', () => { for (const chart of charts) chart.zoom = null; redraw(); });
let wait = 0;
const fit = () => document.documentElement.style.setProperty('--nav', find('nav').offsetHeight + 'px');
addEventListener('resize', () => { cancelAnimationFrame(wait); wait = requestAnimationFrame(() => { fit(); redraw(); }); });
fit();
addEventListener('toggle', event => { enliven(event.target); redraw(); }, true);
})();
