"""Numbers as people read them, in the language of the page."""

from mmer import numerals
from mmer.messages import marked
from mmer.ui.language import numeral

percent = numeral(numerals.percent)
likely = numeral(numerals.likely)
signed = numeral(numerals.signed)
decimal = numeral(numerals.decimal)
seconds = numeral(numerals.seconds)
stretch = numeral(numerals.stretch)
IN_WORDS = (marked("over 99 %"), marked("whole clip"))  # what they write that is no number
