"""The command line of the benchmarks."""

from typing import Annotated, Literal

import typer
from rich.console import Console

bench = typer.Typer(
    name="bench",
    help="Measure the obvious way and ours in turn, with random weights unless a checkpoint is named.",
    no_args_is_help=True,
    add_completion=False,
)

Model = Annotated[str, typer.Option("--model", help="demo, an open_clip architecture or local-dir:PATH.")]
Pretrained = Annotated[str, typer.Option("--pretrained", help="Weights tag or checkpoint file.")]
Classes = Annotated[int, typer.Option("--classes", min=1, help="How many classes.")]
Experts = Annotated[int, typer.Option("--experts", min=0, help="Frozen experts' contexts.")]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Images a step.")]
Images = Annotated[int, typer.Option("--images", min=1, help="Images of the client in a round.")]
Context = Annotated[int, typer.Option("--context-tokens", min=1, help="Learned context tokens.")]
Dtype = Annotated[Literal["float32", "float64", "bfloat16"], typer.Option("--dtype", help="bfloat16 by autocast.")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N.")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="CPU threads; with one, CPU time is counted.")]
Repeat = Annotated[int, typer.Option("--repeat", min=1, help="Turns.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Only = Annotated[str, typer.Option("--only", hidden=True)]


def _add(name: str, what: str, experts: int) -> None:
    """One sub-command: all take the same options, so that results can be set side by side."""

    @bench.command(name, help=what)
    def command(
        model: Model = "ViT-B-16",
        pretrained: Pretrained = "",
        classes: Classes = 37,
        experts: Experts = experts,
        batch: Batch = 32,
        images: Images = 64,
        context_tokens: Context = 16,
        dtype: Dtype = "float32",
        device: Device = "cpu",
        threads: Threads = 1,
        repeat: Repeat = 5,
        json_: Json = False,
        only: Only = "",
    ) -> None:
        from deploy.bench.run import run
        from deploy.bench.setting import Setting

        setting = Setting(
            model, pretrained, classes, experts, batch, images, context_tokens, dtype=dtype, device=device
        )
        try:
            run(name, setting, threads=threads, repeat=repeat, as_json=json_, only=only)
        except ValueError as error:
            Console(stderr=True).print(f"error: {error}", highlight=False)
            raise typer.Exit(1) from None


_add("text", "Text features of all classes and the context's gradient; with --experts, of frozen experts.", 0)
_add("gate", "The gate, forward and backward.", 9)
_add("features", "Image features of a batch, through the image tower or from the cache.", 0)
_add("step", "One training step with experts.", 9)
_add("round", "A client's later local round with experts.", 9)
_add("startup", "From process start to the first training step, image features cached.", 0)
