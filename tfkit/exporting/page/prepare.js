// What training does to a picture or a text before the model sees it. No page is needed: Node runs it too.

// Pillow's bilinear resize to a square, see tfkit.data.pixels.to_square: antialiased, in two passes, whole numbers
// after each. `pixels` are bytes [height, width, channels], of which the first three are taken; bytes [size, size, 3].
export function resize(pixels, width, height, size) {
  return narrowed(narrowed(pixels, width, height, size), height, size, size);
}

const ONE = 2 ** 22;  // Pillow's weights are whole numbers

// [height, width, ...] to [size, height, 3]: the axes change places, so that a second call does the other one.
function narrowed(pixels, width, height, size) {
  const channels = pixels.length / (width * height), scale = width / size, reach = Math.max(scale, 1);
  const out = new Uint8Array(size * height * 3);
  for (let x = 0; x < size; x++) {
    const centre = (x + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const count = Math.min(width, Math.trunc(centre + reach + 0.5)) - first;
    const weights = Float64Array.from({length: count}, (_, k) => {
      return Math.max(0, 1 - Math.abs((first + k - centre + 0.5) / reach));
    });
    const sum = weights.reduce((a, b) => a + b);
    weights.forEach((weight, k) => (weights[k] = Math.floor(weight / sum * ONE + 0.5)));
    for (let y = 0; y < height; y++)
      for (let c = 0; c < 3; c++) {
        let total = ONE / 2, place = (y * width + first) * channels + c;
        for (let k = 0; k < count; k++, place += channels) total += weights[k] * pixels[place];
        out[(x * height + y) * 3 + c] = Math.floor(total / ONE);
      }
  }
  return out;
}

// BERT's word pieces as tf_text.FastBertTokenizer cuts them, see tfkit.text.tokenizers.WordPiece.
export class WordPiece {
  // `vocabulary` is the text of vocab.txt, a piece a line; `length` of the rows that the model takes.
  constructor(vocabulary, length) {
    this.known = new Map(vocabulary.split('\n').slice(0, -1).map((piece, id) => [piece, id]));
    this.length = length;
  }

  // The ids of a text, Int32Array [length], and the mask: 1 for each id, 0 for padding.
  row(text) {
    const pieces = words(text).flatMap((word) => this.pieces(word)).slice(0, this.length - 2);
    const [start, end, pad] = ['[CLS]', '[SEP]', '[PAD]'].map((piece) => this.known.get(piece));
    const ids = new Int32Array(this.length).fill(pad);
    ids.set([start, ...pieces, end]);
    return {ids, mask: Int32Array.from(ids, (_, place) => +(place < pieces.length + 2))};
  }

  // The longest known piece from each place on; [UNK] for a word of which some part is unknown, or of over 100 bytes.
  pieces(word) {
    const found = [], unknown = [this.known.get('[UNK]')];
    if (new TextEncoder().encode(word).length > 100) return unknown;
    for (let from = 0, to; from < word.length; from = to) {
      const within = from ? '##' : '';
      for (to = word.length; to > from && !this.known.has(within + word.slice(from, to)); to--);
      if (to === from) return unknown;
      found.push(this.known.get(within + word.slice(from, to)));
    }
    return found;
  }
}

// Unicode's case folding, which JavaScript lacks, one character at a time: no final sigma.
function folded(character) {
  if (character === 'ı') return character;
  if (/\p{Script=Cherokee}/u.test(character)) return character.toUpperCase();
  return character.toLowerCase().toUpperCase().toLowerCase();
}

const ALONE = /[!-\/:-@\[-`{-~\p{P}\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u{20000}-\u{2a6df}\u{2a700}-\u{2ceaf}\u{2f800}-\u{2fa1f}]/gu;

// Compatible forms, case and accents are folded, controls are gaps; punctuation and Chinese characters stand alone.
function words(text) {
  const plain = Array.from(text.normalize('NFKC'), folded).join('').normalize('NFKD');
  const clean = plain.replace(/[\p{Mn}\p{DI}]/gu, '').replace(/[\p{Cc}\p{Cf}]/gu, ' ');
  return clean.replace(ALONE, ' $& ').split(/\s+/u).filter(Boolean);
}
