import io

from acmix_jax.run.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_log_gets_plain_lines():
    stream = io.StringIO()
    progress = Progress(total=100, start=0, batch_size=10, stream=stream)
    progress.update(20, 5.0, "loss 1.0")
    progress.say("done")
    assert stream.getvalue() == "step 20/100  loss 1.0  5 images/s  0:02:40 left\ndone\n"


def test_a_terminal_gets_one_line_updated_in_place():
    stream = Terminal()
    progress = Progress(total=100, start=0, batch_size=10, stream=stream)
    progress.update(20, 0.001, "loss 10.0")
    progress.update(21, 1000.0, "loss 1.0")
    progress.say("done")
    first, second = stream.getvalue().split("\r")[1:]
    assert "9 days" in first
    assert "\n" not in first
    assert second.startswith("step 21/100  loss 1.0  1,000 images/s  0:00:01 left ")
    assert len(second.partition("\n")[0]) == len(first)
    assert second.endswith("\ndone\n")
