"""What a replica makes of the matrices that it holds, whole or in slices, and what it should make."""

import pytest
import torch

from daemon.core.errors import ProofError
from daemon.publish.proof import Proof
from daemon.publish.proving.challenge import Challenge, multiplied, shared
from daemon.publish.proving.noise import Noise
from daemon.publish.proving.passages import Passage
from daemon.publish.serving import Piece, Products, ServingError
from daemon.publish.stub import StubServing
from editing.memory.products import signs
from editing.memory.state import EditState

NAME, OTHER = "layers.0.down.weight", "layers.1.down.weight"
WEIGHTS = {
    name: torch.randn(12, 32, generator=torch.Generator().manual_seed(i)) / 9
    for i, name in enumerate((NAME, OTHER))
}


class Holds(StubServing):
    """Holds weights in bfloat16; `split` says which slices its ranks have."""

    def __init__(self, held=None, split="whole", ranks=1, **more):
        super().__init__(**more)
        self.held, self.split, self.ranks = dict(WEIGHTS if held is None else held), split, ranks
        self.asked: list[int] = []

    def products(self, version, seed, tensors):
        if version != self.version:
            raise ServingError(f"served is {self.version}", retryable=False, code="refused", status=422)
        self.asked.append(seed)
        return Products(
            "bfloat16", [{n: self._piece(n, seed, rank) for n in tensors} for rank in range(self.ranks)]
        )

    def _piece(self, name, seed, rank):
        weight = self.held[name].bfloat16()
        vectors = signs(seed, name, weight.shape[1]).bfloat16()
        if self.split == "sum":
            weight, vectors = (t.chunk(self.ranks, 1)[rank] for t in (weight, vectors))
        if self.split == "rows":
            weight = weight.chunk(self.ranks)[rank]
        told = (vectors @ weight.T).float().contiguous()
        return Piece(self.split, tuple(told.shape), told.numpy().tobytes())


class Model:
    state, tensor_names = EditState(), (NAME, OTHER)

    def weights(self):
        return WEIGHTS


def proof_of(**more):
    return Proof(lambda pairs: [Passage((1, 2), 1, (0.0,)) for _ in pairs], [("p", "t")], Model(), **more)


def served(replica, version="v000001"):
    replica.publish(version, 1)
    return replica


WAYS = [("whole", 1), ("whole", 2), ("sum", 2), ("sum", 4), ("rows", 3)]


@pytest.mark.parametrize(("split", "ranks"), WAYS)
def test_a_matrix_is_proved_however_the_ranks_share_it(split, ranks):
    challenge = proof_of().challenge()
    told = multiplied(served(Holds(split=split, ranks=ranks)), "v000001", challenge)
    assert told.faults(None) == told.faults(Noise(0, 0, 0)) == []


@pytest.mark.parametrize(("split", "ranks"), WAYS)
def test_one_matrix_that_is_off_is_named(split, ranks):
    held = WEIGHTS | {OTHER: WEIGHTS[OTHER] * 0.8}
    proof = proof_of()
    with pytest.raises(ProofError, match=rf"1 of 2 matrices do not multiply.*: {OTHER} differs by"):
        proof.check(served(Holds(held, split, ranks)), "v000001", proof.challenge())
    assert proof.proven == {}


def test_of_ranks_that_hold_it_whole_each_must_be_right():
    class OneStale(Holds):
        def _piece(self, name, seed, rank):
            self.held = {n: w * (rank == 0) for n, w in WEIGHTS.items()}
            return super()._piece(name, seed, rank)

    proof = proof_of()
    with pytest.raises(ProofError, match="2 of 2 matrices"):
        proof.check(served(OneStale(ranks=2)), "v000001", proof.challenge())


def test_ranks_that_share_a_matrix_in_different_ways_are_wrong():
    one, two = (
        served(Holds(split=s, ranks=2)).products("v000001", 1, [NAME]).ranks[1] for s in ("sum", "rows")
    )
    assert shared(Products("bfloat16", [one, two]), NAME) == []


def test_an_unknown_dtype_is_held_to_float32():
    class Coded(Holds):
        def products(self, version, seed, tensors):
            return Products("int8", super().products(version, seed, tensors).ranks)

    assert multiplied(served(Coded()), "v000001", Challenge((), WEIGHTS, 3)).faults(None)


def test_right_products_do_not_excuse_wrong_answers_nor_the_other_way_round():
    proof = proof_of()
    replica = served(Holds(log_prob=lambda version, passage: -9.0))
    with pytest.raises(ProofError, match="1 of 1 passages differ") as error:
        proof.check(replica, "v000001", proof.challenge())
    assert "matrices" not in str(error.value)
    replica.held = {n: w * 0 for n, w in WEIGHTS.items()}
    with pytest.raises(ProofError, match=r"2 of 2 matrices.*; 1 of 1 passages differ"):
        proof.check(replica, "v000001", proof.challenge())


def test_each_challenge_has_another_seed():
    proof, replica = proof_of(), served(Holds())
    for _ in range(3):
        proof.check(replica, "v000001", proof.challenge())
    assert len(set(replica.asked)) == 3
    assert proof.proven == {"stub": "v000001"}


def test_noise_is_not_measured_on_a_replica_whose_matrices_are_wrong():
    proof = proof_of()
    with pytest.raises(ProofError, match="2 of 2 matrices"):
        proof.measure(served(Holds({n: w * 1.1 for n, w in WEIGHTS.items()})), "v000001", proof.challenge())
    assert proof.noise == {}


def _one_token(*, probe):
    return Proof(
        lambda pairs: [Passage(tuple(range(21)), 1, (0.0,) * 20) for _ in pairs],
        [("p", "t")] * probe,
    )


@pytest.mark.parametrize(("token", "wrong"), [(0.05, False), (0.4, True)])
def test_one_token_in_twenty_is_found(token, wrong):
    """The mean over the passage is within the bounds, the token is not."""

    class OneToken(StubServing):
        def log_probs(self, passages):
            return [[0.0, token, *[0.0] * 19] for _ in passages]

    proof = _one_token(probe=1)
    proof.record.keep("stub", Noise(0.0, 0.0, 0.02))
    challenge = proof.challenge()
    if not wrong:
        return proof.check(OneToken(), "v000001", challenge)
    with pytest.raises(ProofError, match=r"0 of 1 passages.*a token differs by 0\.40 nats \(0\.06 allowed\)"):
        proof.check(OneToken(), "v000001", challenge)
    return None


def test_a_little_more_noise_on_all_unrelated_tokens_is_found():
    proof, replica = _one_token(probe=1), StubServing(log_prob=lambda version, passage: 0.015)
    proof.record.keep("stub", Noise(0.001, 0.1, 0.005))
    with pytest.raises(
        ProofError, match=r"unrelated text differ by 0\.015 nats on average \(0\.010 allowed\)"
    ):
        proof.check(replica, "v000001", proof.challenge())
