#!/usr/bin/env python3
"""Small vocabularies and the ids that their reference libraries give.

Run: python3 tests/vectors/tokenizers/generate.py   (needs: tokenizers, sentencepiece)
Writes beside itself, for each family: NAME.tokenizer.json (or NAME.pieces, SentencePiece's, one
piece a line: type, score, text as JSON) and NAME.json: [{text, ids, special}], where `ids` is for
text that may not spell control tokens and `special` for text that may. Everything is trained from
the sentences below; nothing is downloaded. Vocabulary and ids are always written together, because
equal counts may fall either way in training. With --random N it writes nothing, but prints N random
texts with their ids for a family that was written before, for soak tests (TOKENIZER_SOAK=folder):
  generate.py --random 1000 --family llama3 --seed 7
"""
import argparse, io, json, os, random, unicodedata

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers,
                        processors, trainers)

HERE = os.path.dirname(os.path.abspath(__file__))
SENTENCES = """The quick brown fox jumps over the lazy dog, and the dog doesn't mind.
In shared memory two processes meet; one writes, the other reads, nobody waits.
A token is a piece of text. Tokens become numbers, numbers become vectors.
Il faut tenir compte de l'expérience; où êtes-vous allés, garçons? C'est l'été.
Über die Brücke führt der Weg nach Süden, weiße Häuser stehen dort.
Мы читаем книгу о языках, и каждая страница полна слов.
日本語の文章も分かち書きなしで書かれます。東京へ行きましょう。
今天天气很好，我们去公园散步。机器学习模型需要数据。
한국어 문장은 띄어쓰기가 있습니다. 모델을 훈련합니다.
مرحبا بالعالم، هذه جملة قصيرة. नमस्ते दुनिया, यह एक वाक्य है।
for (int i = 0; i < n; i++) { sum += a[i] * b[i]; } // 1024 rows
def f(x):\n    return x ** 2 + 3 * x - 7\n\nprint(f(10))
<html><body class="main">Hello &amp; goodbye</body></html>
Numbers: 1, 22, 333, 4444, 55555, 3.14159, 1e-9, 0xff, 2024-11-24.
WE'RE SHOUTING, THEY'VE HEARD IT, I'LL STOP, it's fine, we'd agree.
   indented\ttabs\t\tand   spaces  \n\n\nnew lines\r\nand more   """.split("\n")
CORPUS = [s.encode().decode("unicode_escape").encode("latin-1").decode() if "\\" in s else s
          for s in SENTENCES] * 4

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SPECIAL = ["<|begin|>", "<|end|>", "<|user|>"]
BYTES = ["<0x%02X>" % i for i in range(256)]


def byte_level(pre, size=700, normalizer=None, ignore_merges=False, added=(), bos=False):
    tok = Tokenizer(models.BPE())
    if normalizer:
        tok.normalizer = normalizer
    tok.pre_tokenizer = pre
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=size, show_progress=False, special_tokens=[],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    data = json.loads(tok.to_str())
    data["model"]["ignore_merges"] = ignore_merges
    tok = Tokenizer.from_str(json.dumps(data))
    tok.add_special_tokens(SPECIAL)
    tok.add_tokens(list(added))
    if bos:
        tok.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", tok.token_to_id("<|begin|>"))])
    return tok


def char_level(normalizer, pre, size=420, fuse_unk=True):
    """As the converters of SentencePiece models write them: merges by rank, bytes as a fallback."""
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=fuse_unk))
    if normalizer:
        tok.normalizer = normalizer
    if pre:
        tok.pre_tokenizer = pre
    tok.train_from_iterator([line.strip() for line in CORPUS[:11]] * 4, trainers.BpeTrainer(
        vocab_size=size, show_progress=False, special_tokens=["<unk>", "<s>", "</s>"],
        limit_alphabet=90))
    data = json.loads(tok.to_str())
    vocab = data["model"]["vocab"]
    for name in BYTES:
        vocab[name] = len(vocab)
    data["model"]["byte_fallback"] = True
    tok = Tokenizer.from_str(json.dumps(data))
    tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(),
                                     decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tok.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tok.token_to_id("<s>"))])
    return tok


def split(pattern):
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def families():
    space = normalizers.Replace(" ", "▁")
    yield "gpt2", byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))
    yield "prefix-space", byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True))
    yield "llama3", byte_level(split(LLAMA3), ignore_merges=True, bos=True)
    yield "qwen2", byte_level(split(QWEN2), normalizer=normalizers.NFC(), added=[
        AddedToken("<tool>", special=False, normalized=False),
        AddedToken("<strip>", special=False, normalized=False, lstrip=True, rstrip=True)])
    yield "o200k", byte_level(split(O200K))
    yield "smollm", byte_level(pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]))
    isolated = [pre_tokenizers.Split(Regex(p), "isolated") for p in
                (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+")]
    yield "deepseek-coder", byte_level(pre_tokenizers.Sequence(isolated + [
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]))
    yield "falcon", byte_level(pre_tokenizers.Sequence([
        pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.ByteLevel(add_prefix_space=False),
        pre_tokenizers.Digits(individual_digits=False),
        pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated")]))
    yield "llama2", char_level(normalizers.Sequence([normalizers.Prepend("▁"), space]), None)
    yield "metaspace", char_level(None, pre_tokenizers.Metaspace("▁", "first", split=False))
    yield "metaspace-always", char_level(None, pre_tokenizers.Metaspace("▁", "always", split=True))
    yield "gemma", char_level(space, pre_tokenizers.Split(" ", "merged_with_previous"))


def sentencepiece():
    import sentencepiece as spm
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(" ".join(CORPUS).replace("\r", "").split("\n") + CORPUS), model_writer=model,
        model_type="bpe", vocab_size=640, byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, character_coverage=0.98, user_defined_symbols=["<|user|>", "▁▁▁▁"],
        num_threads=1, minloglevel=2)
    return spm.SentencePieceProcessor(model_proto=model.getvalue())


EDGES = ["", " ", "  ", "\n", "\n\n", " \n", "\t", "a", " a", "a ", "  a", "a  b", "a   b    c", "\r\n\r\nx",
         "Hello, world!", "don't WON'T I'LL we'Ve 'sup 'S", "123456789 12 1 1234", "١٢٣ ४५ Ⅻ ½ ²",
         "ünïcödé ÀÉÎ", "e\u0301\u0327o\u0308 A\u030a", "\u1100\u1161\u11a8 각", "\u212b \u2126 \ufb01",
         "日本語と English を mix", "中文，标点。！", "한국어 텍스트", "नमस्ते दुनिया", "مرحبا بكم ١٢",
         "👍🏽 👨‍👩‍👧 🇩🇪 ❤️", "zero\u200bwidth\u200djoin\ufeff", "a\u00a0b\u2003c\u3000d\u180ee\u0085f",
         "\u0000\u0001\u001f\u007f", "\U0001d54f\U00020000\U000e0041", "__init__ snake_case camelCase HTTPServer",
         "x=1;y=2;//z\n\tif (a>b) { return; }\n", "https://example.com/a?b=c&d=%20", "....!!!???---***",
         "ſtop 'ſ K's", "a\u0300\u0301\u0302\u0316\u0317\u0300" * 3, "<0x41> <unk> </s>", "▁a ▁▁b",
         "Hi <|end|>there<|begin|><|user|> x<|end|>", "<|end", "<<|end|>>", " <tool> a<tool>b  <strip>  c <strip>",
         "The quick brown fox jumps over the lazy dog.", "nobody waits; one writes, the other reads" * 2,
         "1e-9 0xff 3.14159 2024-11-24", "ééé" * 20, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
         "    " * 12 + "x", "\n \n  \n   \n", "we\u2019re \u201cquoted\u201d", "end with spaces   ", "Ġ Ċ Â literal",
         "<s>[INST] hi [/INST]</s>"]


def random_text(rng):
    pools = ["abcdefghij ETAOIN", "0123456789 .,", " \n\t\r", "'stremvlld'STREVMLD", "éüñçøßàê", "日本語中文한국",
             "مرحباनमस्ते", "\u0300\u0301\u0308\u0327\u0316e", "👍🏽🇩🇪\u200d❤️", "<|end|><tool><s></s>▁_", "{}[]()<>;:=+-*/\\\"",
             "\u00a0\u2003\u3000\u180e\u0085\u200b\x00", "theandingjumpsquick "]
    out = []
    for _ in range(rng.randint(1, 12)):
        if rng.random() < 0.15:
            code = rng.randint(0, 0x10ffff)
            out.append(chr(code) if not 0xd800 <= code < 0xe000 else "?")
        pool = rng.choice(pools)
        out.append("".join(rng.choice(pool) for _ in range(rng.randint(1, 9))))
    return "".join(out)


def known(text):
    """Characters whose categories no Unicode version after 14 changed: libraries differ in theirs."""
    return all(unicodedata.category(c) != "Cn" for c in text) and unicodedata.unidata_version >= "14"


def plain(tok):
    """The same tokenizer without special tokens in its added ones: what untrusted text gets."""
    data = json.loads(tok.to_str())
    data["added_tokens"] = [t for t in data["added_tokens"] if not t["special"]]
    data["post_processor"] = None
    return Tokenizer.from_str(json.dumps(data))


def cases(texts, encode, encode_special):
    for text in texts:
        ids, special = encode(text), encode_special(text)
        yield {"text": text, "ids": ids} | ({"special": special} if special != ids else {})


def encoders(name, tok):
    if name == "sentencepiece":
        return tok.encode, lambda t: None  # it never reads control tokens
    untrusted = plain(tok)
    ids = tok.get_vocab()  # loading gives the tokens that are left new ids
    return (lambda t: [ids[untrusted.id_to_token(i)] for i in untrusted.encode(t, add_special_tokens=False).ids],
            lambda t: tok.encode(t, add_special_tokens=False).ids)


def write(name, text):
    with open(os.path.join(HERE, name), "w", encoding="utf-8", newline="\n") as out:
        out.write(text)


def dump_pieces(sp):
    kinds = [(sp.is_unknown, 2), (sp.is_control, 3), (sp.is_unused, 5), (sp.is_byte, 6)]
    for i in range(sp.get_piece_size()):
        kind = next((k for test, k in kinds if test(i)), 1)
        if sp.id_to_piece(i) in ("<|user|>", "▁▁▁▁"):
            kind = 4
        yield "%d %r %s\n" % (kind, sp.get_score(i), json.dumps(sp.id_to_piece(i), ensure_ascii=False))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", type=int, default=0)
    parser.add_argument("--family")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    for name, tok in list(families()) + [("sentencepiece", sentencepiece())]:
        if args.family and args.family != name:
            continue
        if args.random:
            if name != "sentencepiece":  # ties in training may fall otherwise: take the written one
                tok = Tokenizer.from_file(os.path.join(HERE, name + ".tokenizer.json"))
            texts = [t for t in (random_text(rng) for _ in range(args.random)) if known(t)]
            print(json.dumps(list(cases(texts, *encoders(name, tok))), ensure_ascii=False))
            continue
        texts = EDGES + [t for t in (random_text(rng) for _ in range(20)) if known(t)]
        lines = [json.dumps(c, ensure_ascii=True, separators=(",", ":")) for c in cases(texts, *encoders(name, tok))]
        write(name + ".json", "[\n" + ",\n".join(lines) + "\n]\n")
        if name == "sentencepiece":
            write(name + ".pieces", "".join(dump_pieces(tok)))
        else:
            data = json.loads(tok.to_str())
            write(name + ".tokenizer.json", json.dumps(data, ensure_ascii=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
