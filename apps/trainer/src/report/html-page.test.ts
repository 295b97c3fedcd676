import { describe, expect, it } from 'vitest';
import { htmlPage, table } from './html-page';

describe('htmlPage', () => {
  it('escapes text, so that data cannot add elements', () => {
    const html = htmlPage({ title: '<b>', body: [table([['<script>'], ['a & "b"']], { caption: '<i>' })] });
    expect(html).not.toMatch(/<script>|<b>|<i>/);
    expect(html).toContain('a &amp; &quot;b&quot;');
  });

  it('loads nothing from the network and forbids it', () => {
    const html = htmlPage({ title: 't', body: [] });
    expect(html).not.toMatch(/https?:\/\/|src=|@import/);
    expect(html).toContain(`content="default-src 'none'; img-src data:; style-src 'unsafe-inline'"`);
  });

  it('puts the rules of a page after the shared ones', () => {
    expect(htmlPage({ title: 't', body: ['<p>x</p>'], style: 'p{color:red}' })).toMatch(
      /body\{[\s\S]*p\{color:red\}<\/style><\/head><body>\n<p>x<\/p>/,
    );
  });
});
