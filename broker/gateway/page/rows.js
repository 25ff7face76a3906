// Tables whose rows are kept and changed, not made anew.

// Rows by key, in the order of the list; those that are gone are removed.
export function keep(holder, list, keyOf, make, fill) {
  const known = holder.rows_ || (holder.rows_ = new Map());
  const wanted = new Set(list.map(keyOf));
  for (const [key, row] of known) if (!wanted.has(key)) { row.remove(); known.delete(key); }
  list.forEach((item, index) => {
    const key = keyOf(item);
    let row = known.get(key);
    if (!row) { row = make(item); known.set(key, row); }
    if (holder.children[index] !== row) holder.insertBefore(row, holder.children[index] || null);
    fill(row, item);
  });
}

export function table(body, list, keyOf, columns, fill) {
  keep(body, list, keyOf, () => {
    const row = document.createElement("tr");
    for (let column = 0; column < columns; column += 1) row.append(document.createElement("td"));
    return row;
  }, (row, item) => fill(row.children, item));
}

export function numbers(cells, values) {
  for (const [index, value] of Object.entries(values)) {
    cells[index].className = "n";
    write(cells[index], value);
  }
}

export function write(node, value) {
  const text = String(value);
  if (node.textContent !== text) node.textContent = text;
}
