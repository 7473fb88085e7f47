"""What strangers wrote, made harmless."""
import pytest

from vision_transformer.messages import OUT_OF_MEMORY, OutOfMemory, duration, harmless, one_line


@pytest.mark.parametrize("text, shown", [
    ("plain ä 日本 🙂 C:\\x", "plain ä 日本 🙂 C:\\x"), ("a\nb\tc\r", r"a\nb\tc\r"),
    ("\x1b]0;title\x07", r"\x1b]0;title\x07"), ("\x7f\x80\x9b", r"\x7f\x80\x9b"),
    ("\u2028\u202e\u200b", r"\u2028\u202e\u200b"), ("\udc80\U000e0001", r"\udc80\U000e0001"),
    (12, "12"), ("", "")])
def test_what_steers_a_terminal_is_written_out_and_the_rest_stays(text, shown):
    assert harmless(text) == shown and harmless(text).isprintable()


@pytest.mark.parametrize("error, line", [
    (ValueError("a\n  b\x1b[2J"), r"a b\x1b[2J"), (ValueError(), "ValueError"), (MemoryError("x"), OUT_OF_MEMORY),
    (OutOfMemory("out of memory: so much"), "out of memory: so much"),
    (KeyError("k"), "'k'"), (OSError(2, "No such file", "a\nb"), r"[Errno 2] No such file: 'a\nb'")])
def test_an_error_is_one_line(error, line):
    assert one_line(error) == line


def test_duration_reads_like_speech():
    assert [duration(s) for s in (0, 41.2, 60, 3725, 19200)] == ["0 s", "42 s", "1 min 0 s", "1 h 2 min", "5 h 20 min"]
