"""One strategy for all methods: who is asked, what each is sent, what comes back, and what becomes of it.

Differs from `flwr.serverapp.strategy.Strategy`, which it does not extend: that loop sends one array record to all,
cannot repeat a round that too few answered, cannot resume, and cannot say which client an error belongs to.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from common.config import RunConfig
from common.errors import RunError
from common.method import Method, Parcel, Tensors, Upload
from common.progress import Progress
from common.record import Evaluated, Failure, Phase, Question, Round, Trained
from common.wire import EvaluateReply, Reply, Request, TrainReply, pack, tensor_bytes, unpack
from server.exchange import exchange
from server.sampling import sample
from server.uploads import objection

Answered = TypeVar("Answered", bound=Reply)
_MESSAGE_TYPES: dict[Phase, str] = {"train": MessageType.TRAIN, "evaluate": MessageType.EVALUATE}


@dataclass(frozen=True)
class Strategy:
    """The rounds of one run: what does not change while it goes on. The state is passed in and handed back."""

    method: Method
    config: RunConfig
    request: Request
    """What every message of the run says."""
    upload_like: Tensors
    """What an upload must look like."""
    grid: Grid
    nodes: Mapping[str, int]
    """Where each client is reached."""
    domains: Mapping[str, str]
    """Of each client that trains, its domain, or an empty word."""
    examples: Mapping[str, int]
    """How many training images each client said that it has."""
    tests: Mapping[str, tuple[int, int]]
    """How many test and validation images each client said that it has."""
    newcomers: Sequence[str]
    """Clients that could train but only join after the last round."""
    progress: Progress

    @property
    def rounds(self) -> int:
        """Rounds of a whole run; one, which only evaluates, where nothing is trained."""
        return self.config.rounds if self.method.schedule else 1

    def round(self, state: Tensors, history: Sequence[Round]) -> tuple[Tensors, Round]:
        """The state after the next round of training and, where one is due, evaluation, with its record.

        Raises:
            RunError: too few answered, in every attempt; says who did not and why. The state is unchanged.
        """
        started = time.monotonic()
        number = len(history) + 1
        counted = {entry.client: past.number for past in history for entry in past.trained}
        trained: list[Trained] = []
        failures: list[Failure] = []
        attempts = 0
        if self.method.schedule:
            state, trained, failures, attempts = self._train(state, number, counted)
            counted |= dict.fromkeys((entry.client for entry in trained), number)
        evaluated: list[Evaluated] = []
        if number % self.config.federation.evaluate_every == 0 or number >= self.rounds:
            for question, parcels in self._questions(state, number).items():
                answers, failed = self._evaluate(question, number, parcels, counted)
                evaluated += answers
                failures += failed
        return state, Round(
            number=number,
            seconds=time.monotonic() - started,
            attempts=attempts,
            trained=tuple(trained),
            evaluated=tuple(evaluated),
            failures=tuple(failures),
        )

    def _train(
        self, state: Tensors, number: int, counted: Mapping[str, int]
    ) -> tuple[Tensors, list[Trained], list[Failure], int]:
        """(next state, who trained, who failed, attempts). The same clients are asked again until enough answer."""
        options = self.config.federation
        clients = sample(
            self.domains,
            rule=options.sampling,
            participation=options.participation,
            seed=self.config.seed,
            round_=number,
        )
        parcels = self.method.downlink(state, clients, round_=number, seed=self.config.seed)
        required = max(1, math.ceil(options.required_share * len(clients)))
        failures: list[Failure] = []
        for attempt in range(1, options.attempts + 1):
            replies, failed = self._ask("train", number, parcels, counted, TrainReply, self._refusal)
            failures += failed
            if len(replies) >= required:
                uploads = {client: Upload(reply.tensors, reply.examples) for client, reply in replies.items()}
                trained = [_trained(reply, parcels[client]) for client, reply in replies.items()]
                return self.method.aggregate(state, uploads), trained, failures, attempt
        whose: dict[str, list[str]] = {}
        for failure in failed:
            whose.setdefault(failure.reason, []).append(failure.client)
        reasons = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in whose.items())
        raise RunError(
            f"round {number}: {len(replies)} of {len(clients)} clients answered and {required} must, "
            f"in {options.attempts} attempts ({reasons})"
        )

    def _refusal(self, client: str, reply: TrainReply) -> str | None:
        if reply.examples != self.examples[client]:
            return f"weight of {reply.examples} images instead of the {self.examples[client]} it said it has"
        return objection(reply.tensors, self.upload_like, self.config.federation.norm_bound)

    def _miscount(self, client: str, reply: EvaluateReply) -> str | None:
        counted, said = (reply.total, reply.validation_total), self.tests[client]
        if counted == said:
            return None
        return "figures of {} test and {} validation images instead of the {} and {} it said it has".format(
            *counted, *said
        )

    def _questions(self, state: Tensors, number: int) -> dict[Question, dict[str, Parcel]]:
        """Who is asked what after a round, and with what in hand.

        Those who train: what they make of what they would receive in the next round. All others: the server's model
        alone; those who train too where theirs is another, after the last round or if a round is chosen by it.
        Newcomers after the last round: one round of training.
        """
        trains = sorted(self.domains)
        asked: dict[Question, dict[str, Parcel]] = {
            "personal": self.method.downlink(state, trains, round_=number + 1, seed=self.config.seed)
        }
        if self.method.shared is None:
            return asked
        last = number >= self.rounds
        own = self.method.kept and (last or self.config.data.validation_share)
        others = sorted(self.nodes) if own else sorted(self.nodes.keys() - self.domains.keys())
        asked["global"] = {client: Parcel(self.method.shared(state)) for client in others}
        if last and self.method.schedule:
            welcome = self.method.welcome or self.method.shared
            asked["newcomer"] = {client: Parcel(welcome(state)) for client in self.newcomers}
        return asked

    def _evaluate(
        self, question: Question, number: int, parcels: Mapping[str, Parcel], counted: Mapping[str, int]
    ) -> tuple[list[Evaluated], list[Failure]]:
        """The clients' counts on their own test and validation parts."""
        replies, failures = self._ask("evaluate", number, parcels, counted, EvaluateReply, self._miscount, question)
        return [
            Evaluated(
                client=client,
                correct=reply.correct,
                total=reply.total,
                loss=reply.loss,
                seconds=reply.seconds,
                bytes_down=tensor_bytes(parcels[client].tensors),
                question=question,
                validation_correct=reply.validation_correct,
                validation_total=reply.validation_total,
            )
            for client, reply in replies.items()
        ], failures

    def _ask(
        self,
        phase: Phase,
        number: int,
        parcels: Mapping[str, Parcel],
        counted: Mapping[str, int],
        kind: type[Answered],
        refusal: Callable[[str, Answered], str | None] = lambda _client, _reply: None,
        question: Question = "personal",
    ) -> tuple[dict[str, Answered], list[Failure]]:
        """The good replies of the clients that `parcels` are for, and why the others have none."""
        messages = {
            client: Message(
                pack(
                    self.request.model_copy(
                        update={
                            "round": number,
                            "counted": counted.get(client, 0),
                            "question": question,
                            "tensors": parcel.tensors,
                        }
                    )
                ),
                dst_node_id=self.nodes[client],
                message_type=_MESSAGE_TYPES[phase],
            )
            for client, parcel in parcels.items()
        }
        if not messages:
            return {}, []
        self.progress.asked(phase, number, list(messages))
        timeout = self.config.federation.timeout
        answers = exchange(self.grid, messages, timeout=timeout, answered=self.progress.answered)
        replies: dict[str, Answered] = {}
        failures: list[Failure] = []
        for client, answer in answers.items():
            problem: str | None = answer.problem
            if answer.reply is not None:
                try:
                    reply = unpack(kind, answer.reply)
                    renamed = f"answers as {reply.client!r}" if reply.client != client else None
                    problem = renamed or refusal(client, reply)
                    replies[client] = reply
                except ValueError as error:
                    problem = str(error)
            if problem:
                replies.pop(client, None)
                failures.append(Failure(client=client, phase=phase, reason=problem))
        return replies, failures


def _trained(reply: TrainReply, parcel: Parcel) -> Trained:
    return Trained(
        client=reply.client,
        examples=reply.examples,
        parameters=reply.parameters,
        loss=reply.loss,
        seconds=reply.seconds,
        bytes_down=tensor_bytes(parcel.tensors),
        bytes_up=tensor_bytes(reply.tensors),
        drew_on=parcel.drew_on,
    )
