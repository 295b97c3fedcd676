import { describe, expect, it } from 'vitest';
import { promptHtml } from './report';

const prompt = { title: 'color', shots: [{ src: 'data:,', text: '<one>' }], query: 'data:,', truth: 'blue' };

describe('promptHtml', () => {
  it('shows the correct answer next to a wrong one', () => {
    const html = promptHtml({ ...prompt, answer: 'red' });
    expect(html).toContain('red (correct: blue)');
    expect(html).toContain('class="card wrong"');
  });

  it('marks a correct answer and escapes the shots', () => {
    const html = promptHtml({ ...prompt, answer: 'blue' });
    expect(html).toContain('<div class="card right"><img src="data:," alt=""><span>blue</span>');
    expect(html).toContain('&lt;one&gt;');
  });
});
