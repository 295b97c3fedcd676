import { describe, expect, it } from 'vitest';
import { extractPage, tidyParts } from './extract';

const prose = 'The mill stands at the end of the lane, where the river bends to the south. '.repeat(12);
const extract = (body: string) =>
  extractPage(`<main><h1>The mill</h1><p>${prose}</p>${body}</main>`, { url: 'https://e.org/' });
const textOf = (body: string) =>
  tidyParts(extract(body).parts)
    .map((part) => ('text' in part ? part.text : '<image>'))
    .join('')
    .slice(`The mill\n\n${prose}`.length)
    .trim();

const words =
  'cookies related-work what-is-consent navigation share sidebar _file_menu footer newsletter social popup ad toc'.split(
    ' ',
  );

describe('ids generated from headings', () => {
  it.each(words)('a heading with the id %s is content', (id) => {
    expect(textOf(`<h2 id="${id}">Its title</h2><p>It is short.</p>`)).toBe('Its title\n\nIt is short.');
    expect(textOf(`<h2><span id="${id}">Its title</span></h2><p>It is short.</p>`)).toBe('Its title\n\nIt is short.');
  });

  it.each(words)('a section with the id %s of its heading is content', (id) => {
    const title = id.replace(/^_/, '').replaceAll(/[-_]/g, ' ');
    const text = `${title}\n\nIt is short, and it has three words more.`;
    for (const name of ['section', 'div class="section"']) {
      const section = (heading: string) =>
        `<${name} id="${id}"><h2>${heading}</h2><p>It is short, and it has three words more.</p></${name.split(' ')[0]}>`;
      expect(textOf(section(title))).toBe(text);
      expect(textOf(section(`${title}<a class="headerlink" href="#${id}">¶</a>`))).toBe(text);
      expect(textOf(section(`4.2. ${title}`))).toBe(`4.2. ${text}`);
    }
  });

  it('targets of links within text are content whatever their id', () => {
    const list = '<dl><dt id="app.cookies">cookies</dt><dd id="menu">A dictionary of them.</dd></dl>';
    expect(textOf(`<p>See <span id="consent">consent</span> and <code id="ad">ad</code>.</p>${list}`)).toBe(
      'See consent and ad.\n\ncookies\nA dictionary of them.',
    );
  });

  it('a section with another id is content if it has prose', () => {
    expect(textOf(`<section id="sharing"><h2>How sharing works</h2><p>${prose}More.</p></section>`)).toMatch(/More\.$/);
  });
});

describe('class names and ids of site elements', () => {
  it.each([
    [
      '<div id="related"><h2>Related</h2><a href="/1">One page</a> <a href="/2">Another page</a></div>',
      'related pages',
    ],
    ['<ul id="menu"><li><a href="/">Start</a></li><li><a href="/b">Shop</a></li></ul>', 'navigation'],
    ['<div class="social-share">Tell a friend <button>Mail</button></div>', 'sharing'],
    ['<div class="newsletter"><p>Get our letter.</p><input type="email"></div>', 'sharing'],
    ['<div id="sidebar"><p>We are open on Sundays.</p></div>', 'sidebar'],
    ['<div id="cookies"><p>We need them.</p></div>', 'cookie banner'],
    ['<div class="pagination">Page 2 of 9 <a href="/3">3</a></div>', 'navigation'],
    ['<aside>Our shop has mills.</aside>', 'sidebar'],
  ])('%s', (html, reason) => {
    expect(textOf(html)).toBe('');
    expect(extract(html).dropped).toMatchObject({ [`block: ${reason}`]: 1 });
  });

  it.each([
    '<p class="market-share">The market share of the mill grew to forty percent.</p>',
    '<p class="social">Mills were a social place.</p>',
    '<aside class="admonition note">Mind the wheel.</aside>',
  ])('%s is content', (html) => expect(textOf(html)).toBe(html.replace(/<[^>]*>/g, '')));
});

describe('boilerplate text', () => {
  it.each([
    '© 2024 Hill Farm. All rights reserved.',
    'Copyright © 2001 by the authors',
    'Copyright (C) 2001 Hill Farm',
    'Copyright 1998-2004, Hill Farm',
    '(c) 2004 Hill Farm',
    '(c) Copyright Hill Farm',
    'Back to top',
    '12 comments',
    'Share this article',
    '» | «',
  ])('%s', (text) => expect(textOf(`<p>${text}</p>`)).toBe(''));

  it.each(['Next', 'Home', 'Previous page', 'Contents', 'Log in', 'Subscribe'])('%s, if it is a link', (text) => {
    expect(textOf(`<p><a href="/a">${text}</a></p>`)).toBe('');
    expect(textOf(`<ul><li>${text}</li><li>End</li></ul>`)).toBe(`- ${text}\n- End`);
  });

  it.each([
    '(c) The tenant shall pay the rent on the first day of each month.',
    'Copyright protects the work of an author for seventy years after death.',
    'Copyright law is national.',
  ])('%s is content', (text) => expect(textOf(`<p>${text}</p>`)).toBe(text));

  it.each(['Copyright', 'Contents', 'Next', 'Home', 'Share', 'Subscribe'])('a heading %s is content', (text) => {
    expect(textOf(`<h2>${text}</h2><p>Flour, salt and a wheel.</p>`)).toBe(`${text}\n\nFlour, salt and a wheel.`);
  });

  it('keeps a defined term that is a link', () => {
    const term = '<dl><dt><a href="#a">wheel_size</a></dt><dd>The size of the wheel in feet.</dd></dl>';
    expect(textOf(term)).toBe('wheel_size\nThe size of the wheel in feet.');
  });

  it('drops the heading of a list of links with the list', () => {
    const list = '<ul><li><a href="#a">One</a></li><li><a href="#b">Two</a></li><li><a href="#c">Three</a></li></ul>';
    expect(textOf(`<h2>Contents</h2>${list}<p>Flour and salt.</p>`)).toBe('Flour and salt.');
  });
});

it('reads a heading whose text is in a button, and drops other buttons', () => {
  expect(textOf('<h2><button aria-expanded="true">May I <b>bring</b> a dog?</button></h2><p>Yes.</p>')).toBe(
    'May I bring a dog?\n\nYes.',
  );
  expect(textOf('<h2>Dogs <button>Copy link</button></h2><p>Yes.</p>')).toBe('Dogs\n\nYes.');
});
