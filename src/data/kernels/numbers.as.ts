// Numbers from text in WebAssembly SIMD (AssemblyScript): the cells between delimiters as float64, each the one that JavaScript's
// Number gives. A number is read where that is certain: its digits make an integer up to 2^53 and the power of ten is one up to
// 10^22, both exact, so that the one division is the only rounding (Clinger, "How to read floating point numbers accurately",
// 1990). All other cells are left to the caller (../number-text.ts), which asks Number.
// Cells are found 64 bytes at a time by masks of delimiters, and short ones read whole, so that few branches depend on how long
// a number is. Bytes up to 64 before and behind the text are loaded, and not used.

/** How many cells the last call of `readCells` has left unread. */
export let unreadCells: i32 = 0;
/** How many of those that it has read are no float32. */
export let longNumbers: i32 = 0;

/**
 * Reads the cells of text[start, end). Of cell i, doubles[i] is its value (NaN where it is left unread), singles[i] the same in
 * float32 and ends[i] where it ends; `unread` lists the cells that are left. Returns how many cells there are, or -1 when there are more than `most`.
 */
export function readCells(
  start: usize,
  end: usize,
  delimiter: i32,
  most: i32,
  doubles: usize, // f64 [most]
  singles: usize, // f32 [most]
  ends: usize, // u32 [most]
  unread: usize, // u32 [most]
): i32 {
  const wanted = i8x16.splat(<i8>delimiter);
  let cell = start;
  let count = 0;
  unreadCells = 0;
  longNumbers = 0;
  for (let chunk = start; chunk < end; chunk += 64) {
    let found =
      matches(chunk, wanted) |
      (matches(chunk + 16, wanted) << 16) |
      (matches(chunk + 32, wanted) << 32) |
      (matches(chunk + 48, wanted) << 48);
    if (end - chunk < 64) found &= ((<u64>1) << (end - chunk)) - 1;
    if (count + <i32>popcnt(found) >= most) return -1;
    while (found != 0) {
      const at = chunk + <usize>ctz(found);
      found &= found - 1;
      takeCell(cell, at, count++, doubles, singles, ends, unread);
      cell = at + 1;
    }
  }
  takeCell(cell, end, count++, doubles, singles, ends, unread);
  return count;
}

/** Bit i: whether byte i from `at` is the wanted one. */
@inline
function matches(at: usize, wanted: v128): u64 {
  return <u64>(<u32>i8x16.bitmask(i8x16.eq(v128.load(at), wanted)));
}

@inline
function takeCell(
  start: usize,
  end: usize,
  index: i32,
  doubles: usize,
  singles: usize,
  ends: usize,
  unread: usize,
): void {
  const value = readNumber(start, end);
  const single = <f32>value;
  store<f64>(doubles + (<usize>index << 3), value);
  store<f32>(singles + (<usize>index << 2), single);
  store<u32>(ends + (<usize>index << 2), <u32>end);
  if (<f64>single == value) return;
  if (value == value) longNumbers++;
  else {
    store<u32>(unread + (<usize>unreadCells << 2), index);
    unreadCells++;
  }
}

const space = 32;
const minus = 45;
const point = 46;

/** One space may stand before a number, as Python's json writes lists. */
@inline
function readNumber(start: usize, end: usize): f64 {
  const first = start + <usize>(load<u8>(start) == space);
  const isNegative = load<u8>(first) == minus;
  const digits = first + <usize>isNegative;
  const length = end - digits; // wraps round for a space or sign alone
  if (length - 1 < 4) {
    // Up to four digits at once: those behind the number's own are zeros in front of it (the first byte is the lowest).
    const shift = (4 - <u32>length) << 3;
    const values = ((load<u32>(end - 4) ^ 0x30303030) >> shift) << shift;
    if (((values | (values + 0x06060606)) & 0xf0f0f0f0) == 0) {
      const pairs = values * 10 + (values >> 8);
      const value = <f64>(<i32>((pairs & 0xff) * 100 + ((pairs >> 16) & 0xff)));
      return isNegative ? -value : value;
    }
  }
  return readLong(digits, end, isNegative);
}

const powersOfTen = memory.data<f64>([
  1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21,
  1e22,
]);

/** Digits, perhaps a point and more digits, perhaps spaces; NaN for anything else, and where more than one step would round. */
function readLong(start: usize, end: usize, isNegative: bool): f64 {
  let mantissa: u64 = 0;
  let at = start;
  for (; at < end && isDigit(at); at++) mantissa = mantissa * 10 + <u64>(load<u8>(at) - 48);
  let count = at - start;
  let decimals: usize = 0;
  if (count > 0 && at < end && load<u8>(at) == point) {
    const fraction = ++at;
    for (; at < end && isDigit(at); at++) mantissa = mantissa * 10 + <u64>(load<u8>(at) - 48);
    decimals = at - fraction;
    count = decimals > 0 ? count + decimals : 0;
  }
  while (at < end && load<u8>(at) == space) at++;
  // 19 digits cannot overflow 64 bits.
  if (count - 1 >= 19 || at < end || mantissa > (<u64>1) << 53) return NaN;
  const value = <f64>mantissa / load<f64>(powersOfTen + (decimals << 3));
  return isNegative ? -value : value;
}

@inline
function isDigit(at: usize): bool {
  return <u32>load<u8>(at) - 48 <= 9;
}
