import { describe, expect, it } from 'vitest';
import { decodePage } from './encoding';

const latin = (text: string) => Buffer.from(text, 'latin1');
const utf8 = (text: string) => Buffer.from(text, 'utf8');
const utf16 = (text: string) => Buffer.from(text, 'utf16le');

// The word is "Größe €" in Windows-1252 or UTF-8, "де" in KOI8-R. A page's declaration is ASCII.
const WESTERN = latin('Gr\xf6\xdfe \x80');
const UNICODE = utf8('Größe €');
const KOI = latin('\xc4\xc5');
const page = (start: string, body: Buffer) => Buffer.concat([latin(start), body]);
const pad = (length: number) => ' '.repeat(length);
const wide = (text: string) => utf16(text).swap16();

type Case = [title: string, bytes: Buffer, contentType: string, word: string];

const declarations: Case[] = [
  ['charset', '<meta charset="koi8-r">'],
  ['charset without quotes', '<meta charset=koi8-r>'],
  ['charset in single quotes', "<meta charset='koi8-r'>"],
  ['charset in capitals', '<META CHARSET="KOI8-R">'],
  ['charset with spaces', '<meta charset = " koi8-r ">'],
  ['charset after a slash', '<meta/charset="koi8-r"/>'],
  ['charset after other attributes', '<meta data-a="charset=utf-8" id=a charset="koi8-r">'],
  ['an alias', '<meta charset="koi">'],
  ['http-equiv', '<meta http-equiv="Content-Type" content="text/html; charset=koi8-r">'],
  ['http-equiv after content', '<meta content="text/html; charset=koi8-r" http-equiv="content-type">'],
  ['http-equiv without quotes', '<meta http-equiv=Content-Type content=text/html;charset=koi8-r>'],
  ['http-equiv with a quoted label', `<meta http-equiv="Content-Type" content="text/html; charset='koi8-r'">`],
  ['http-equiv with a space before =', '<meta http-equiv="Content-Type" content="text/html; charset = koi8-r">'],
  ['an unknown label, then a known one', '<meta charset="none"><meta charset="koi8-r">'],
  ['content without http-equiv first', '<meta content="text/html; charset=utf-8"><meta charset="koi8-r">'],
  ['another http-equiv first', '<meta http-equiv="refresh" content="1; charset=utf-8"><meta charset="koi8-r">'],
  ['content that ends in charset', '<meta http-equiv="content-type" content="charset"><meta charset="koi8-r">'],
  ['the first of two', '<meta charset="koi8-r"><meta charset="utf-8">'],
  ['the first of two attributes', '<meta charset="koi8-r" charset="utf-8">'],
  ['after a script with a charset', '<script charset="utf-8" src="a.js"></script><meta charset="koi8-r">'],
  ['after a script that writes one', `<script>write('<meta charset="utf-8">')</script><meta charset="koi8-r">`],
  ['after a style sheet', '<style>/* <meta charset="utf-8"> */</style><meta charset="koi8-r">'],
  ['after a link with a charset', '<link charset="utf-8" href="a.css"><meta charset="koi8-r">'],
  ['after a comment with one', '<!-- <meta charset="utf-8"> --><meta charset="koi8-r">'],
  ['after an empty comment', '<!--><meta charset="koi8-r">'],
  ['after a title with one', '<title><meta charset="utf-8"></title><meta charset="koi8-r">'],
  ['after an attribute with one', `<html title='<meta charset="utf-8">'><meta charset="koi8-r">`],
  ['after a doctype and text', '<!doctype html>charset=utf-8<html><head><meta charset="koi8-r">'],
  ['after an instruction', '<?php charset="utf-8" ?><meta charset="koi8-r">'],
  ['an XML declaration', '<?xml version="1.0" encoding="koi8-r"?>'],
  ['an XML declaration in single quotes', "<?xml version='1.0' encoding='koi8-r' standalone='yes'?>"],
  ['meta before the XML declaration', '<?xml version="1.0" encoding="utf-8"?><meta charset="koi8-r">'],
  ['within 1024 bytes', `${pad(1024 - 23)}<meta charset="koi8-r">`],
  ['beyond 1024 bytes, where the page is not UTF-8', `${pad(3000)}<meta charset="koi8-r">`],
].map(([title, start]): Case => [title!, page(start!, KOI), '', 'де']);

const labels: Case[] = [
  ...['unicode', 'utf-16', 'utf-16le', 'utf-16be', 'ucs-2', 'iso-10646-ucs-2', 'csunicode', 'unicodefeff'].map(
    (label): Case => [`meta ${label} means UTF-8`, page(`<meta charset="${label}">`, UNICODE), '', 'Größe €'],
  ),
  ...['utf8', 'UTF-8', 'unicode-1-1-utf-8', 'x-unicode20utf8'].map((label): Case => [
    `meta ${label}`,
    page(`<meta charset="${label}">`, UNICODE),
    '',
    'Größe €',
  ]),
  ...['iso-8859-1', 'latin1', 'ascii', 'us-ascii', 'x-user-defined', 'cp1252'].map((label): Case => [
    `meta ${label} means Windows-1252`,
    page(`<meta charset="${label}">`, WESTERN),
    '',
    'Größe €',
  ]),
];

const headers: Case[] = [
  ...['koi8-r', '"koi8-r"', "'koi8-r'", ' KOI8-R ', 'koi8-r; boundary=a', '"koi8-r";q=1'].map((label): Case => [
    `header ${label}`,
    page('<meta charset="utf-8">', KOI),
    `text/html; charset=${label}`,
    'де',
  ]),
  ['header without a space', KOI, 'text/html;charset=koi8-r', 'де'],
  ['header in capitals', KOI, 'TEXT/HTML; CHARSET=KOI8-R', 'де'],
  ['header with another parameter first', KOI, 'text/html; level=1; charset=koi8-r', 'де'],
  ...['none', 'x-none', '', '""', 'utf-8-or-so', 'null'].map((label): Case => [
    `unknown header label "${label}": the page decides`,
    page('<meta charset="windows-1252">', WESTERN),
    `text/html; charset=${label}`,
    'Größe €',
  ]),
  ['header utf-16 is UTF-16', utf16('Größe €'), 'text/html; charset=utf-16', 'Größe €'],
  ['header utf-16be', wide('Größe €'), 'text/html; charset=utf-16be', 'Größe €'],
  ['header x-user-defined', latin('a\x80'), 'text/html; charset=x-user-defined', 'a\uf780'],
];

const byteOrderMarks: Case[] = [
  ['UTF-8 byte order mark overrides the header', page('\xef\xbb\xbf', UNICODE), 'text/html; charset=koi8-r', 'Größe €'],
  ['UTF-8 byte order mark overrides the meta', page('\xef\xbb\xbf<meta charset="koi8-r">', UNICODE), '', 'Größe €'],
  ['UTF-16LE byte order mark', page('\xff\xfe', utf16('Größe €')), '', 'Größe €'],
  ['UTF-16BE byte order mark', page('\xfe\xff', wide('Größe €')), '', 'Größe €'],
  ['UTF-16LE without a byte order mark, by its XML declaration', utf16('<?xml version="1.0"?>Größe €'), '', 'Größe €'],
];

const guesses: Case[] = [
  ['undeclared UTF-8', UNICODE, '', 'Größe €'],
  ['undeclared Windows-1252', WESTERN, '', 'Größe €'],
  ['UTF-8 with one bad byte', page('a\xffb', UNICODE), '', 'a\ufffdbGröße €'],
  ['UTF-8 cut within a character', page('', UNICODE).subarray(0, -1), '', 'Größe \ufffd'],
  ['ASCII cut within a character', latin('plain \xe2\x82'), '', 'plain \ufffd'],
  ['Windows-1252 with one pair that UTF-8 allows', latin('\xf6 \xdf \xe9 \xc3\xa9'), '', 'ö ß é Ã©'],
  ['meta beyond 1024 bytes of a UTF-8 page', page(`${pad(1024)}<meta charset="koi8-r">`, UNICODE), '', 'Größe €'],
  ['charset in a script alone', page('<script charset="koi8-r"></script>', UNICODE), '', 'Größe €'],
  ['charset in a comment alone', page('<!-- <meta charset="koi8-r"> -->', UNICODE), '', 'Größe €'],
  ['charset in text alone', page('<p>charset=koi8-r</p>', UNICODE), '', 'Größe €'],
  ['meta that never ends', page('<meta charset="koi8-r', UNICODE), '', 'Größe €'],
];

describe('decodePage', () => {
  const cases = [...declarations, ...labels, ...headers, ...byteOrderMarks, ...guesses];
  it('has more than sixty variants', () => expect(cases.length).toBeGreaterThan(60));

  it.each(cases)('%s', (_, bytes, contentType, word) => {
    const text = decodePage(bytes, contentType);
    expect(text.slice(-word.length)).toBe(word);
  });

  it('decodes each character to one character', () => {
    expect(decodePage(latin('\x80\x93\x94\x96'))).toBe('€“”–');
    expect(decodePage(latin('\x82\xb1'), 'text/html; charset=shift_jis')).toBe('こ');
    expect(decodePage(latin('\xb4\xf3'), 'text/html; charset=gb2312')).toBe('大');
  });
});
