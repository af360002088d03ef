"""What replies say: the formats of the published model, and every way in which they go wrong."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assistant.events import Word
from assistant.models import replies
from assistant.models.replies import Entity, Note, Said, Span, Speaker, TimedWords, Understanding

SRWT = "<|0.00|><|sil|><|0.54|>面<|0.86|>条<|1.17|>机<|1.46|><|sil|><|2.01|>"
FRAGMENTS = [
    *(
        "<|0.00|>",
        "<|0.54|>",
        "<|12.3|>",
        "<|29.99|>",
        "<|99.99|>",
        "<|",
        "|>",
        "<|2.33",
        "<|x|>",
        "<|1:02|>",
        "<|-1.0|>",
    ),
    *(
        "<|sil|>",
        "<|en|>",
        "<|midi_pitch_60|>",
        "<|midi_pitch_999|>",
        "<audio>",
        '"',
        "'",
        "“",
        "”",
        "「",
        "」",
        "`",
        "‘",
    ),
    *(
        "says",
        "The speech is of a man speaking,",
        "in Spanish",
        "is:",
        ":",
        ",",
        "and",
        "\n",
        "- ",
        "1. ",
        "{",
        "}",
        "=",
    ),
    *(
        "scenario",
        "action:",
        "entities",
        "面条",
        "こんにちは",
        "don't",
        "from 2 to 3 seconds",
        "9" * 30,
        " ",
        "\u0000",
        "é",
    ),
]
REPLIES = st.one_of(st.text(max_size=200), st.lists(st.sampled_from(FRAGMENTS), max_size=40).map("".join))


@pytest.mark.parametrize(
    ("reply", "text", "language"),
    [
        ('The speech is of a man speaking, in a Spanish, saying, "No es un gran mar."', "No es un gran mar.", "es"),
        ("The man says, 'I don't know what you're doing'.", "I don't know what you're doing", None),
        ("the woman said ‘it’s the dogs’ house’ in English", "it’s the dogs’ house", "en"),
        ('"Hello there."', "Hello there.", None),
        ("“你好，世界”", "你好，世界", None),
        ("这段音频的内容是：“你好，世界”。", "你好，世界", None),
        ("音声の内容は「今日は『雨』ですね」です。", "今日は『雨』ですね", None),
        ("The speech is in German, saying: „Guten Morgen“", "Guten Morgen", "de"),
        ("The person speaks French and says « Bonjour »", "Bonjour", "fr"),
        ("The speaker says in Mandarin Chinese: 你好。", "你好。", "zh"),
        ("The transcription is: turn on the light", "turn on the light", None),
        ("The first speaker says “Hello”, and the second says “Hi there”.", "Hello Hi there", None),
        ('The audio says, "He is 6" tall"', 'He is 6" tall', None),
        ('The speaker says, "the end is mis', "the end is mis", None),
        ('The speech is of a man saying, "He told me "go away" and left."', 'He told me "go away" and left.', None),
        ('"Bonjour" is what the man says in French.', "Bonjour", "fr"),
        ('The man speaks in English and French, saying "bonjour"', "bonjour", None),
        ("Turn on the light.", "Turn on the light.", None),
        ('He called it "the beast" and left.', 'He called it "the beast" and left.', None),
        ("I can't hear you!", "I can't hear you!", None),
        ("I don't know what the question is.", "I don't know what the question is.", None),
        ("Sorry, I can't hear the music.", "Sorry, I can't hear the music.", None),
        ("As an artist I cannot say.", "As an artist I cannot say.", None),
        ("No words can say it.", "No words can say it.", None),
        ("The time is: nine", "The time is: nine", None),
        ("今日はいい天気ですね。", "今日はいい天気ですね。", None),
    ],
)
def test_speech_is_taken_out_of_prose_and_left_alone_where_it_is_bare(
    reply: str, text: str, language: str | None
) -> None:
    assert replies.speech_of(reply) == Said(text, language)


@pytest.mark.parametrize(
    "reply",
    [
        "There is no speech in this audio.",
        "No speech detected.",
        "The audio contains no human speech.",
        "Sorry, there is no clear speech to be transcribed in the audio.",
        "Nobody is speaking.",
        "Silence.",
    ],
)
def test_no_speech_is_an_empty_text(reply: str) -> None:
    assert replies.speech_of(reply) == Said("", None)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "  \n",
        "<|endoftext|>",
        "I'm sorry, but I cannot transcribe the audio.",
        "As an AI language model, I cannot listen to it.",
        "I'm sorry, but as an AI I cannot listen.",
        "I’m sorry, I can’t process the audio: the format is not supported.",
        "I am not able to transcribe the recording.",
        "The speech is unclear.",
        "Sorry, no audio was provided.",
        "抱歉，我无法听到音频。",
    ],
)
def test_an_empty_reply_and_a_refusal_tell_nothing(reply: str) -> None:
    assert replies.speech_of(reply) == Said(None, None)
    assert replies.prose_of(reply) is None
    assert replies.stated(reply) is None
    assert replies.listed(reply) == ()


@pytest.mark.parametrize(
    "reply", ["I'm not sure.", "I cannot tell the emotion.", "It is difficult to say.", "Unknown."]
)
def test_other_refusals_name_nothing_and_are_no_captions(reply: str) -> None:
    assert replies.prose_of(reply) is None
    assert replies.stated(reply) is None
    assert replies.named(reply, replies.EMOTIONS) is None


def test_what_a_caption_quotes_is_no_refusal() -> None:
    caption = 'A man says "I don\'t know what the question is" while music plays.'
    assert replies.prose_of(caption) == caption


def test_a_description_tells_the_language_but_no_text() -> None:
    assert replies.speech_of("The speech is of a man speaking, in a Spanish.") == Said(None, "es")


def test_a_base_model_says_bare_text_and_maybe_its_language() -> None:
    assert replies.tagged_speech("<|fr|>je <|sil|> suis là") == Said("je suis là", "fr")
    assert replies.tagged_speech("hello") == Said("hello", None)
    assert replies.tagged_speech("<|fr|><|en|>hello") == Said("hello", None)


def test_word_times_share_their_boundaries() -> None:
    assert replies.words_of(SRWT, 2.01) == TimedWords(
        "面条机", (Word("面", 0.54, 0.86), Word("条", 0.86, 1.17), Word("机", 1.17, 1.46)), ()
    )
    timed = replies.words_of("<|0.00|> it's<|0.30|> 9:30<|0.90|><|1.00|>now<|1.20|>", 2.0)
    assert timed.text == "it's 9:30 now"
    assert [word.word for word in timed.words] == ["it's", "9:30", "now"]


@pytest.mark.parametrize(
    ("reply", "timed", "untimed"),
    [
        ("<|0.00|>a<|0.50|>b<|5.86|>c<|1.17|>d<|1.46|>", "ad", "bc"),  # past the clip's end
        ("<|0.00|>a<|0.50|>b<|0.20|>c<|0.90|>d<|1.46|>", "d", "abc"),  # back in time: 0.50 and 0.20 are as likely
        ("<|0.00|>a<|0.50|>b<|1.90|>c<|0.80|>d<|1.00|>e<|1.46|>", "ade", "bc"),  # too far, but within the clip
        ("<|0.00|>a<|0.5x|>b<|1.00|>c<|1.46|>", "c", "ab"),  # malformed
        ("<|0.00|>a<|0.5", "", "a"),  # broken off
        ("a<|0.50|>b<|1.00|>c", "b", "ac"),  # no first and no last boundary
        ("a b", "", ["a b"]),
        ("<|0.00|>a<|31.00|>", "", "a"),
        ("<|-1.00|>a<|0.50|>b<|1.00|>", "b", "a"),
        ("<|1|>a<|0.50|>b<|1.00|>", "b", "a"),
    ],
)
def test_words_at_stamps_that_cannot_be_believed_have_no_times(reply: str, timed: str, untimed: str) -> None:
    found = replies.words_of(reply, 2.0)
    assert [word.word for word in found.words] == list(timed)
    assert found.untimed == tuple(untimed)


def test_a_stamp_just_past_the_end_means_the_end() -> None:
    assert replies.words_of("<|1.00|>a<|2.04|>", 2.01).words == (Word("a", 1.0, 2.01),)


def test_spans_are_stamps_two_by_two() -> None:
    reply = 'The word "middle classes" starts at <|2.33|> seconds and ends at <|3.26|> seconds.'
    assert replies.spans_of(reply, 6.0) == ((Span(2.33, 3.26, "middle classes"),), 0)
    two = 'It says "Mr. Quilter" at <|4.00|> to <|4.50|> and “Nell” at <|1.00|> to <|1.20|>.'
    assert replies.spans_of(two, 6.0) == ((Span(1.0, 1.2, "Nell"), Span(4.0, 4.5, "Mr. Quilter")), 0)


@pytest.mark.parametrize(
    ("reply", "spans", "bad"),
    [
        ("from <|3.26|> to <|2.33|>", [], 1),
        ("from <|2.33|> to <|9.26|>", [], 1),
        ("at <|2.33|>", [], 1),
        ("from <|2.3x|> to <|3.26|>, from <|4.00|> to <|4.5|>", [(4.0, 4.5)], 1),
        ("from <|2.33|> to <|3.26|>, then <|4.9", [(2.33, 3.26)], 1),
        ("It does not occur.", [], 0),
        ("from 2.3 to 3.1 seconds, from 0:04 to 0:05", [(2.3, 3.1), (4.0, 5.0)], 0),
        ("starts at 2.3 seconds and ends at 9.1 seconds", [], 1),
        ("between 2 and 3 people", [], 0),
    ],
)
def test_spans_that_cannot_be_believed_are_counted(reply: str, spans: list[tuple[float, float]], bad: int) -> None:
    found, dropped = replies.spans_of(reply, 6.0)
    assert [(span.start, span.end) for span in found] == spans
    assert dropped == bad


@pytest.mark.parametrize(
    ("reply", "items"),
    [
        ("I can hear a dog barking, a car horn and the sound of rain.", ("dog barking", "car horn", "sound of rain")),
        ("Speech, Music, Speech", ("Speech", "Music")),
        ("1. a dog\n2. a cat", ("dog", "cat")),
        ("- rain\n- thunder", ("rain", "thunder")),
        ("The audio contains speech; wind; and birds.", ("speech", "wind", "birds")),
        ("音楽、話し声", ("音楽", "話し声")),
        ("Dog<|delim|>Bark", ("Dog", "Bark")),
        ("None.", ()),
    ],
)
def test_a_list_is_taken_apart(reply: str, items: tuple[str, ...]) -> None:
    assert replies.listed(reply) == items


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("The acoustic scene is a kitchen.", "kitchen"),
        ("kitchen", "kitchen"),
        ("This is a busy street. Cars pass by.", "busy street"),
        ("It sounds like it was recorded in a bus.", "bus"),
        ("The scene takes place in a restaurant.", "restaurant"),
        ('The scene is "park".', "park"),
    ],
)
def test_what_a_sentence_states(reply: str, label: str) -> None:
    assert replies.stated(reply) == label


@pytest.mark.parametrize(
    ("reply", "emotion"),
    [
        ("The man sounds happy.", "happy"),
        ("anger", "angry"),
        ("Based on the voice, it sounds like this person is sad.", "sad"),
        ("not happy but sad", "sad"),
        ("She is unhappy", "sad"),
        ("他很开心", "happy"),
        ("happy or sad", None),
        ("It is Tuesday.", None),
        ("", None),
    ],
)
def test_an_emotion_is_one_or_unknown(reply: str, emotion: str | None) -> None:
    assert replies.named(reply, replies.EMOTIONS) == emotion


@pytest.mark.parametrize(
    ("reply", "gender", "age"),
    [
        ("The speaker is a young woman.", "female", "young adult"),
        ("A man, about 30 years old.", "male", "30"),
        ("between 20 years and 30 years", None, None),
        ("a boy", "male", "child"),
        ("a man and a woman", None, None),
        ("an elderly lady", "female", "elderly"),
    ],
)
def test_who_speaks(reply: str, gender: str | None, age: str | None) -> None:
    assert replies.speaker_of(reply) == Speaker(gender, age, reply)


def test_a_note_by_tags_and_in_prose() -> None:
    tags = "<|pitch|><|midi_pitch_60|><|velocity|><|midi_velocity_50|><|sonic|>bright, reverb<|instrument|>organ"
    assert replies.note_of(tags) == Note(60, 50, ("bright", "reverb"), "organ", "bright, reverb organ")
    assert replies.note_of("The instrument is a guitar, playing softly.").instrument == "guitar"
    assert replies.note_of("<|midi_pitch_60|><|midi_pitch_61|>").pitch is None
    assert replies.note_of("<|midi_pitch_200|>").pitch is None
    assert replies.note_of("") == Note(None, None, (), None, None)


@pytest.mark.parametrize(
    "reply",
    [
        "scenario: alarm\naction: set\nentities: time = five am; day = tomorrow",
        "Scenario: Alarm. Action: Set. Entities: time: five am, day: tomorrow.",
        '{"scenario": "alarm", "action": "set", "entities": [{"type": "time", "value": "five am"}, '
        '{"type": "day", "filler": "tomorrow"}]}',
        '```json\n{"scenario": "alarm", "action": "set", "entities": {"time": "five am", "day": "tomorrow"}}\n```',
        "<|scenario|>alarm<|action|>set<|entities|><|startofentityvalue|>five am<|endofentityvalue|>"
        "<|startofentitytype|>time<|endofentitytype|><|startofentityvalue|>tomorrow<|endofentityvalue|>"
        "<|startofentitytype|>day<|endofentitytype|>",
    ],
)  # fmt: skip
def test_what_a_request_wants(reply: str) -> None:
    found = replies.understanding_of(reply)
    assert (found.scenario, found.action) == ("alarm", "set")
    assert found.entities == (Entity("time", "five am"), Entity("day", "tomorrow"))


@pytest.mark.parametrize(
    "reply", ["[1, 2]", "{}", "{not json}", '{"entities": 3}', "He wants his tea.", "scenario: none"]
)
def test_a_request_that_is_not_told_is_unknown(reply: str) -> None:
    found = replies.understanding_of(reply)
    assert (found.scenario, found.action, found.entities) == (None, None, ())
    assert replies.understanding_of("") == Understanding(None, None, (), None)


@settings(max_examples=200, deadline=1000)
@given(reply=REPLIES, duration=st.floats(0.0, 30.0))
def test_no_reply_breaks_a_parser_and_no_time_leaves_the_clip(reply: str, duration: float) -> None:
    timed = replies.words_of(reply, duration)
    times = [time for word in timed.words for time in (word.start, word.end)]
    assert all(a <= b for a, b in itertools.pairwise(times))
    assert all(0.0 <= time <= duration for time in times)
    spans, bad = replies.spans_of(reply, duration)
    assert all(0.0 <= span.start <= span.end <= duration for span in spans)
    assert list(spans) == sorted(spans, key=lambda span: (span.start, span.end, span.text or ""))
    assert bad >= 0
    said = replies.speech_of(reply)
    assert said.text is None or "<|0." not in said.text
    assert replies.speaker_of(reply).gender in {None, "male", "female"}
    pitch = replies.note_of(reply).pitch
    assert pitch is None or 0 <= pitch <= 127
    replies.tagged_speech(reply)
    replies.understanding_of(reply)
    replies.stated(reply)
    assert all(replies.listed(reply))
    assert replies.named(reply, replies.EMOTIONS) in {None, *replies.EMOTIONS}


@given(st.lists(st.sampled_from(["<|1.00|>a", "<|0.50|>b", "<|2.00|>", "c", "<|9.99|>d"]), max_size=30))
def test_no_word_is_lost_or_invented(parts: list[str]) -> None:
    reply = "".join(parts)
    timed = replies.words_of(reply, 3.0)
    letters = sorted(sign for sign in reply if sign.isalpha())
    assert sorted(sign for text in (*(w.word for w in timed.words), *timed.untimed) for sign in text) == letters
    assert sorted(sign for sign in timed.text if sign.isalpha()) == letters


def test_a_long_reply_takes_no_long_time() -> None:
    for unit in ("“says ", '"a ', "the audio is ", "a" * 5, "<|", "<|1.00|>a", "from 2 ", "[", "'x "):
        reply = unit * (4000 // len(unit))
        for parse in (replies.speech_of, replies.listed, replies.stated, replies.understanding_of, replies.note_of):
            parse(reply)
        replies.spans_of(reply, 30.0)
