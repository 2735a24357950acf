"""A CLIP tokenizer for the captions' words: byte-level complete, so that any text tokenizes."""
import argparse
import json
from pathlib import Path

import numpy as np
from captions import varied
from scenes import sample
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

START, END = "<|startoftext|>", "<|endoftext|>"


def train(folder):
    """Learn merges from captions until every word of theirs is one token, and write CLIP's files."""
    rng = np.random.default_rng(5)
    captions = [varied(sample(rng), rng) for _ in range(20000)]
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    bpe.train_from_iterator(captions, trainers.BpeTrainer(vocab_size=400, end_of_word_suffix="</w>", show_progress=False))
    merges = [m if isinstance(m, str) else " ".join(m) for m in json.loads(bpe.to_str())["model"]["merges"]]
    letters = list(bytes_to_unicode().values())
    words = letters + [letter + "</w>" for letter in letters]
    words += [m.replace(" ", "") for m in merges if m.replace(" ", "") not in words] + [START, END]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(dict.fromkeys(words))}, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=77, pad_token=END)
    split = {w for c in captions for w in c.replace(",", " ").split() if len(tokenizer.tokenize(w)) > 1}
    assert not split, f"words of several tokens: {split}"
    return tokenizer


def ids(tokenizer, texts):
    """[n, 77] token ids, padded with the end token."""
    return tokenizer(texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of this training run")
    tokenizer = train(parser.parse_args().run / "tokenizer")
    print(len(tokenizer), tokenizer.tokenize("A red Cube on top of a blue sphere, Ünïcode"))
