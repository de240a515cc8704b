"""The walkthrough's exercises: what is right, and what is wrong in a way that many are wrong.

A right answer and each typical mistake are written alike, as a value or as a function of the same
arguments, so that an answer is known by what it gives and not by how it is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

NAN = np.nan


@dataclass(frozen=True)
class Exercise:
    """`cases` are the arguments that functions are tried with; none where a value is asked for.

    `hint` is said of a wrong answer that is no known mistake; `mistakes` are pairs of a wrong
    answer and what is said of it.
    """

    right: Any
    mistakes: Sequence[tuple[Any, str]]
    hint: str
    praise: str
    cases: Sequence[tuple] = ()


MATRICES = (
    (np.array([[80.0, NAN, NAN], [90.0, 70.0, NAN], [60.0, 50.0, 75.0]]),),
    (np.array([[64.0, NAN], [40.0, 71.0]]),),
)


def forgetting(a):
    return np.mean([a[i:-1, i].max() - a[-1, i] for i in range(len(a) - 1)])


def learning_accuracy(a):
    return np.diagonal(a).mean()


LESSON_10 = {
    "forgetting": Exercise(
        forgetting,
        (
            (
                lambda a: np.mean(np.diagonal(a)[:-1] - a[-1, :-1]),
                "You count from when a task was just learned. A task can still get better after "
                "that: count from its best, the largest entry of its column above the last row.",
            ),
            (
                lambda a: np.mean(np.nanmax(a, axis=0) - a[-1]),
                "You count the last task too. It was learned a moment ago and had no time to be "
                "forgotten, so its 0 makes the mean look better than it is.",
            ),
            (lambda a: -forgetting(a), "Turn the sign: what was lost counts as positive."),
            (lambda a: (len(a) - 1) * forgetting(a), "That is the sum; the mean is asked for."),
        ),
        "For each task but the last: its best accuracy before the end, minus that at the end. "
        "Then the mean.",
        "Best before the end minus the end, averaged over the earlier tasks.",
        MATRICES,
    ),
    "learning_accuracy": Exercise(
        learning_accuracy,
        (
            (
                lambda a: a[-1].mean(),
                "That is the last row: how well all tasks are known at the end. When task t was "
                "just learned, row t had just been filled.",
            ),
            (
                lambda a: np.nanmean(a),
                "That is the mean over the whole matrix; only the entries where a task was just "
                "learned count.",
            ),
        ),
        "Row t is filled when task t was just learned, column t tests task t.",
        "The diagonal. Read beside forgetting, it tells remembering from never having learned.",
        MATRICES,
    ),
    "guessing": Exercise(
        100 / 30,
        (
            (10, "That is guessing among one task's ten classes. Nobody says which task it is."),
            (1 / 30, "Nearly: this is a share, and accuracies here are in percent."),
            (100 / 3, "That is guessing the task. The class is asked for: there are 30."),
        ),
        "How many classes has the network seen, and how many of them are right?",
        "One in thirty. Judge every accuracy on this page by that, not by one half.",
    ),
}

DRAW = np.random.default_rng(0)
X, W0, U, V = (DRAW.normal(size=size) for size in ((2, 4), (4, 4), (4, 2), (4, 2)))
C, M, N, M2, N2 = (DRAW.normal(size=size) for size in ((3, 3), (3, 2), (3, 2), (3, 1), (3, 1)))


LESSON_11 = {
    "lora_numbers": Exercise(
        lambda d_out, d_in, r: r * (d_out + d_in),
        (
            (
                lambda d_out, d_in, r: d_out * d_in,
                "That is the whole weight, as full fine-tuning would train it. Count U and V.",
            ),
            (
                lambda d_out, d_in, r: r * d_out * d_in,
                "That grows with the product of the sides. U has d_out × r entries, V d_in × r.",
            ),
            (lambda d_out, d_in, r: r * d_out, "That is U alone; V learns too."),
        ),
        "U is d_out × r and V is d_in × r.",
        "For 128 × 128 and r = 8 that is an eighth of the weight; for a ViT-B's 768, a fiftieth.",
        ((128, 128, 8), (512, 128, 4)),
    ),
    "lora_layer": Exercise(
        lambda x, W0, U, V: x @ (W0 + U @ V.T).T,
        (
            (
                lambda x, W0, U, V: x @ (U @ V.T).T,
                "That is the correction alone: W0 is still there, only frozen.",
            ),
            (
                lambda x, W0, U, V: x @ (W0 + U @ V.T),
                "The weight is d_out × d_in and x has d_in columns: transpose it, as `x @ W0.T`.",
            ),
            (
                lambda x, W0, U, V: x @ (W0 + V @ U.T).T,
                "U and V have changed places: U writes to the outputs, V reads the inputs.",
            ),
        ),
        "Form W0 + U Vᵀ first, then do what a plain layer does with it.",
        "One product with the sum of both: no second branch is needed.",
        ((X, W0, U, V),),
    ),
    "both_zero": Exercise(
        "b",
        (
            ("a", "No: with one of them zero the product is zero already, as it should be."),
            ("c", "Worse than slower. What is the gradient of U V with respect to U?"),
        ),
        "Answer 'a', 'b' or 'c', in quotes. Think of the derivative of a product.",
        "Each one's gradient has the other as a factor, so both would stay zero for ever.",
    ),
}


LESSON_12 = {
    "task_numbers": Exercise(
        lambda R, r: 2 * R * r,
        (
            (lambda R, r: R * r, "That is M alone; N is as large."),
            (
                lambda R, r: R * R,
                "That is the core. It is changed by way of M and N, and these are what learns.",
            ),
        ),
        "M and N are R × r each; A and B are frozen.",
        "At R = 16 and r = 8 that is 256, whatever the size of the layer. LoRA of rank 8 at a "
        "layer of 128 × 128 trains 2048.",
        ((16, 8), (64, 4)),
    ),
    "next_core": Exercise(
        lambda C, M, N: C + M @ N.T,
        (
            (
                lambda C, M, N: M @ N.T,
                "That is this task's part alone. What earlier tasks put into the core must stay.",
            ),
            (
                lambda C, M, N: C + N @ M.T,
                "M and N have changed places. M belongs to the outputs (A), N to the inputs (B).",
            ),
        ),
        "The old core plus a product that is R × R.",
        "Added in, and M and N can go.",
        ((C, M, N),),
    ),
    "overlap": Exercise(
        lambda M1, N1, M2, N2: np.sum((M1 @ N1.T) * (M2 @ N2.T)),
        (
            (
                lambda M1, N1, M2, N2: np.trace(M1 @ N1.T @ M2 @ N2.T),
                "Close: trace(X Y) sums X_ij Y_ji. One of the two wants to be transposed.",
            ),
            (
                lambda M1, N1, M2, N2: (M1 @ N1.T) * (M2 @ N2.T),
                "Those are the products of the entries. Sum them.",
            ),
        ),
        "Multiply M1 N1ᵀ and M2 N2ᵀ entry by entry, and sum.",
        "A and B drop out because AᵀA and BᵀB are the identity.",
        ((M, N, M2, N2), (M, N, M, N)),
    ),
}


WEIGHTS = np.array([1.0, 1.6, 2.3])


def softmax(scores):
    return np.exp(scores) / np.exp(scores).sum()


def softmax_rows(scores):
    return np.array([softmax(row) for row in scores])


LESSON_13 = {
    "probabilities": Exercise(
        lambda w, H, tau: softmax(w * H / tau),
        (
            (
                lambda w, H, tau: np.exp(w * H / tau),
                "These do not sum to 1: divide by their sum.",
            ),
            (
                lambda w, H, tau: softmax(w * H * tau),
                "A high temperature should make the choice softer: divide by it.",
            ),
            (
                lambda w, H, tau: w * H / np.sum(w * H),
                "A softmax takes the exponentials first, then divides by their sum.",
            ),
        ),
        "exp(w H / τ), divided by its sum over the ranks.",
        "Raise H and the largest gets more, but the largest stays the same one.",
        ((WEIGHTS, 0.5, 1.0), (WEIGHTS, 2.0, 0.5)),
    ),
    "easy_rank": Exercise(
        8,
        (
            (
                2,
                "So it ought to be! But H multiplies all the scores: 0.01, 0.016 and 0.023. "
                "Which is the largest?",
            ),
            (4, "Multiply each w by 0.01. Which of the three is the largest?"),
        ),
        "Compute the three scores w · H. The answer is 2, 4 or 8.",
        "The largest w wins whatever H is. This is the flaw that the cost λ mends.",
    ),
    "score": Exercise(
        lambda H, w, r, r_max, cost, tau: (w * H - cost * r / r_max) / tau,
        (
            (
                lambda H, w, r, r_max, cost, tau: (w * H - cost * r) / tau,
                "The price is for the share of the largest rank: r / r_max.",
            ),
            (
                lambda H, w, r, r_max, cost, tau: w * H / tau - cost * r / r_max,
                "The temperature divides all of it, the price too.",
            ),
            (
                lambda H, w, r, r_max, cost, tau: (w * H + cost * r / r_max) / tau,
                "That rewards a large rank; a price is taken off.",
            ),
        ),
        "Gain minus price, then divided by the temperature.",
        "A harder task can pay for more rank, an easy one cannot.",
        ((0.5, 1.6, 4, 16, 1.2, 2.0), (0.9, 3.2, 16, 16, 0.7, 0.5)),
    ),
}


CLS, P, PATCHES = (DRAW.normal(size=(rows, 4)) for rows in (1, 3, 5))


LESSON_14 = {
    "sequence_length": Exercise(
        lambda patches, m: 1 + m + patches,
        (
            (lambda patches, m: m + patches, "One is missing: the one that the classifier reads."),
            (lambda patches, m: 1 + patches, "That is without the prompt."),
        ),
        "Count [CLS], the prompt and the patches.",
        "Attention compares all pairs, so a long prompt is not free.",
        ((16, 8), (196, 10)),
    ),
    "prompt_numbers": Exercise(
        lambda m, d, n_tasks: m * d,
        (
            (
                lambda m, d, n_tasks: m * d * n_tasks,
                "That would be a prompt a task. There is one for all, and each task trains it on.",
            ),
            (lambda m, d, n_tasks: m, "That counts tokens; each is a vector of d numbers."),
        ),
        "P is m × d.",
        "The number of tasks does not enter.",
        ((8, 128, 10), (4, 64, 3)),
    ),
    "insert": Exercise(
        lambda cls, P, patches: np.concatenate([cls, P, patches]),
        (
            (
                lambda cls, P, patches: np.concatenate([P, cls, patches]),
                "The classifier reads the first token, and that must still be [CLS].",
            ),
            (
                lambda cls, P, patches: np.concatenate([cls, patches, P]),
                "The prompt stands after [CLS] and before the patches.",
            ),
            (
                lambda cls, P, patches: np.concatenate([cls, patches]),
                "The prompt is missing.",
            ),
        ),
        "Three blocks of rows, in the order of the equation.",
        "[CLS] stays first, where the classifier looks for it.",
        ((CLS, P, PATCHES),),
    ),
}


LESSON_15 = {
    "learning": Exercise(
        "MNP",
        (
            ("MN", "One is missing: every task goes on training the prompt."),
            (
                "CMNP",
                "The core does change, but by adding M Nᵀ when the task ends, not by a gradient.",
            ),
            ("ABMNP", "A and B learned in task 1 and are frozen since."),
            ("ABCMNP", "A and B are frozen since task 1; the core takes M Nᵀ at the end."),
        ),
        "Three letters, such as 'ABC'. What is frozen after task 1?",
        "The coefficients and the prompt, and the classifier's rows of this task.",
    ),
    "kept_numbers": Exercise(
        lambda d_out, d_in, R, n_tasks: R * (d_out + d_in) + R * R,
        (
            (
                lambda d_out, d_in, R, n_tasks: R * (d_out + d_in) + n_tasks * R * R,
                "That keeps a core a task. They are summed into one.",
            ),
            (
                lambda d_out, d_in, R, n_tasks: R * (d_out + d_in),
                "Those are the bases; the core is kept too.",
            ),
            (lambda d_out, d_in, R, n_tasks: R * R, "That is the core; the bases are kept too."),
        ),
        "A is d_out × R, B is d_in × R, and there is one core of R × R.",
        "The same after ten tasks and after a thousand.",
        ((128, 128, 16, 10), (512, 128, 8, 3)),
    ),
}


PICTURES, TEXTS = DRAW.normal(size=(5, 3)), DRAW.normal(size=(4, 3))
ALL_MEASURED = (
    (np.array([[80.0, 40.0, 30.0], [70.0, 85.0, 20.0], [60.0, 75.0, 90.0]]),),
    (np.array([[64.0, 33.0], [40.0, 71.0]]),),
)
POOL = DRAW.normal(size=(6, 4)), DRAW.normal(size=(5, 4)), np.array([3, 9, 1, 7])


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def shares(f, g, s):
    scores = np.exp(s * unit(f) @ unit(g).T)
    return scores / scores.sum(1, keepdims=True)


def transfer(a):
    return np.mean([a[:j, j].mean() for j in range(1, len(a))])


def merged(U, V, counts, m):
    most = np.argsort(-counts)[:m]
    return U[:, most] @ V[:, most].T / len(counts)


LESSON_16 = {
    "shares": Exercise(
        shares,
        (
            (
                lambda f, g, s: softmax_rows(s * f @ g.T),
                "Those are inner products. A long vector wins them all: divide each row of f and "
                "of g by its length first.",
            ),
            (
                lambda f, g, s: softmax_rows(unit(f) @ unit(g).T),
                "The scale s is missing. Cosines lie between −1 and 1, and a softmax of them is "
                "nearly the same for all names.",
            ),
            (
                lambda f, g, s: softmax_rows(unit(f) @ unit(g).T / s),
                "The scale multiplies: a large s makes the model surer of itself.",
            ),
            (
                lambda f, g, s: softmax_rows((s * unit(f) @ unit(g).T).T).T,
                "Your columns sum to 1. Each picture shares out its 1 among the names: the rows "
                "must.",
            ),
            (
                lambda f, g, s: s * unit(f) @ unit(g).T,
                "Those are the scores. Take exponentials, and divide each row by its sum.",
            ),
            (
                lambda f, g, s: np.exp(s * unit(f) @ unit(g).T),
                "These do not sum to 1: divide each row by its sum.",
            ),
        ),
        "Rows of f and g to length 1, all inner products times s, a softmax along each row.",
        "Any list of names will do for g, which is why no classifier has to be trained.",
        ((PICTURES, TEXTS, 4.0), (PICTURES[:2], TEXTS, 10.0)),
    ),
    "transfer": Exercise(
        transfer,
        (
            (
                lambda a: np.mean([a[:, j].mean() for j in range(1, len(a))]),
                "You count a script after it was learned, too. Only rows above the diagonal count.",
            ),
            (
                lambda a: np.mean([a[: j + 1, j].mean() for j in range(1, len(a))]),
                "You count the diagonal. There the script was just learned, which is no transfer.",
            ),
            (
                lambda a: a[np.triu_indices(len(a), 1)].mean(),
                "That is the mean of all entries above the diagonal, in which late scripts count "
                "more often. Take the mean of each column first.",
            ),
            (
                lambda a: np.mean([a[j, :j].mean() for j in range(1, len(a))]),
                "You went below the diagonal: those are scripts that were learned before.",
            ),
            (
                lambda a: np.sum([a[:j, j].mean() for j in range(1, len(a))]),
                "That is the sum over scripts; the mean is asked for.",
            ),
        ),
        "Column j, its entries above the diagonal, their mean. Then the mean over all columns but "
        "the first.",
        "Beside zero-shot accuracy it says what teaching the earlier ones did to the later ones.",
        ALL_MEASURED,
    ),
    "merged": Exercise(
        merged,
        (
            (
                lambda U, V, counts, m: U @ V.T / len(counts),
                "That merges all r experts. Only the m with the highest counts stay.",
            ),
            (
                lambda U, V, counts, m: U[:, :m] @ V[:, :m].T / len(counts),
                "Those are the first m experts. Which have the highest counts? `np.argsort` helps.",
            ),
            (
                lambda U, V, counts, m: merged(U, V, -counts, m),
                "Those are the m that were used least: `np.argsort` sorts upwards.",
            ),
            (
                lambda U, V, counts, m: merged(U, V, counts, m) * len(counts) / m,
                "Divide by r, the number of experts in the pool, not by m: an expert weighs in the "
                "end what it weighed in training.",
            ),
            (
                lambda U, V, counts, m: merged(U, V, counts, m) * len(counts),
                "The factor 1/r is missing.",
            ),
        ),
        "Take the columns of U and V with the m highest counts; multiply, and divide by r.",
        "It has rank m at most, and is added into the weight: later it costs nothing.",
        ((*POOL, 2), (*POOL, 1), (*POOL, 3)),
    ),
}


WITHIN = (
    np.array([[80.0, NAN, NAN], [91.0, 85.0, NAN], [88.0, 84.0, 90.0]]),
    np.array([[64.0, NAN], [62.0, 77.0]]),
)
F = np.array([[0.7, 0.6, 0.1], [2.0, 0.1, 0.0], [0.3, 1.0, 0.2], [0.0, 0.8, 1.0], [0.6, 0.1, 0.0]])
MEANS = np.array([[0.3, 0.0, 0.0], [0.1, 0.5, 0.1], [1.0, 1.5, 2.0], [0.9, 0.9, 0.2]])
FEATURES, ONE_HOT = DRAW.normal(size=(6, 3)), np.eye(2)[[0, 1, 0, 0, 1, 1]]
MEAN, D = DRAW.normal(size=3), DRAW.normal(size=(4, 3))


def confusion(a, within):
    return within[-1].mean() - a[-1].mean()


def cosines(f, means):
    return (f / np.linalg.norm(f, axis=1)[:, None]) @ (
        means / np.linalg.norm(means, axis=1)[:, None]
    ).T


def ridge(h, y, lam):
    return np.linalg.solve(h.T @ h + lam * np.eye(h.shape[1]), h.T @ y)


LESSON_17 = {
    "confusion": Exercise(
        confusion,
        (
            (lambda a, within: -confusion(a, within), "Turn the sign: what is lost is positive."),
            (
                lambda a, within: forgetting(a) - forgetting(within),
                "That is by how much forgetting shrinks when the task is given. Confusion is there "
                "for the last task too: compare the last rows.",
            ),
            (
                lambda a, within: np.diagonal(a).mean() - a[-1].mean(),
                "That is what was lost since the tasks were learned. The second matrix has no part "
                "in it.",
            ),
            (
                lambda a, within: np.nanmean(within - a),
                "That is the mean over the whole matrix; what counts is the end, the last row.",
            ),
        ),
        "Two means of last rows, and the larger minus the smaller.",
        "What is lost because nobody says the task. What it does not take is still known.",
        tuple((a, within) for (a,), within in zip(MATRICES, WITHIN, strict=True)),
    ),
    "nearest_mean": Exercise(
        lambda f, means: cosines(f, means).argmax(1),
        (
            (
                lambda f, means: (f @ means.T).argmax(1),
                "Those are inner products, and a long mean wins them all. Divide each mean by its "
                "length.",
            ),
            (cosines, "Those are the cosines. Which class has the largest, image by image?"),
            (
                lambda f, means: cosines(f, means).argmax(0),
                "That finds an image for each class. Go along the other axis.",
            ),
            (
                lambda f, means: np.linalg.norm(f[:, None] - means, axis=2).argmin(1),
                "That is the nearest by distance, which depends on lengths. The angle is asked "
                "for.",
            ),
        ),
        "Scale to length 1, multiply all with all, and take the place of the largest in each row.",
        "No training, no rate, no order: a class added later changes no other class's row.",
        ((F, MEANS),),
    ),
    "ridge": Exercise(
        ridge,
        (
            (lambda h, y, lam: ridge(h, y, 0), "That is plain least squares: λ I is missing."),
            (
                lambda h, y, lam: np.linalg.solve(h.T @ h + lam, h.T @ y),
                "NumPy adds a number to *every* entry. λ stands on the diagonal: λ times `np.eye`.",
            ),
            (
                lambda h, y, lam: (h.T @ h + lam * np.eye(h.shape[1])) @ h.T @ y,
                "You multiply by G + λ I; its inverse is asked for. `np.linalg.solve(A, B)` is "
                "A⁻¹ B.",
            ),
            (lambda h, y, lam: ridge(h, y, lam).T, "Turned on its side: M rows, K columns."),
        ),
        "G is `h.T @ h`, Q is `h.T @ y`. `np.linalg.solve(A, B)` gives A⁻¹ B.",
        "G and Q are sums over images, so it does not matter in which order tasks came.",
        ((FEATURES, ONE_HOT, 0.7), (FEATURES[:5], ONE_HOT[:5], 5.0)),
    ),
    "carried_mean": Exercise(
        lambda mean, D: mean + np.append(mean, 1) @ D,
        (
            (
                lambda mean, D: np.append(mean, 1) @ D,
                "That is by how much it moves. Where does it arrive?",
            ),
            (
                lambda mean, D: mean + mean @ D[:-1],
                "The last row of D is missing: it moves everything alike, and belongs to the 1.",
            ),
            (
                lambda mean, D: mean + np.append(1, mean) @ D,
                "The 1 stands last, as in [f, 1].",
            ),
        ),
        "Put a 1 behind the mean (`np.append`), multiply by D, and add what was there.",
        "The mean moves as every image would, and no image was needed.",
        ((MEAN, D),),
    ),
}


EXERCISES = {
    **LESSON_10, **LESSON_11, **LESSON_12, **LESSON_13, **LESSON_14, **LESSON_15, **LESSON_16,
    **LESSON_17,
}  # fmt: skip
"""Every exercise by its name."""
