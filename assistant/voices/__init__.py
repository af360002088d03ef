"""Voices: engines that turn a text into speech."""
