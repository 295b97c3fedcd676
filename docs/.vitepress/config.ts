import { readdirSync } from 'node:fs';
import path from 'node:path';
import { defineConfig } from 'vitepress';

const REPOSITORY = 'https://github.com/flamingo-ts/flamingo';
const root = path.resolve(import.meta.dirname, '../..');
const packages = readdirSync(path.join(root, 'packages')).sort();

/** Makes a link that works on GitHub work on the site: READMEs are index pages here, and sources are on GitHub alone. */
function siteLink(link: string, folder: string): string {
  if (/\.(md|png|svg)(#|$)/.test(link)) return link.replace(/(^|\/)README\.md/, '$1index.md').replace(/^(?!\.)/, './');
  return `${REPOSITORY}/blob/main/${path.relative(root, path.resolve(folder, link))}`;
}

/** The site shows the files that GitHub shows: docs/ and every README. The pages of the API come from TypeDoc. */
export default defineConfig({
  title: 'Flamingo for TypeScript',
  description: 'Few-shot visual language models on TensorFlow.js',
  srcDir: '..',
  outDir: '../.cache/site',
  cacheDir: '../.cache/vitepress',
  srcExclude: ['.changeset/**', '.github/**', '**/CHANGELOG.md', '**/node_modules/**', '.cache/**', 'runs/**'],
  rewrites: {
    'README.md': 'index.md',
    'examples/README.md': 'examples/index.md',
    ':folder/:name/README.md': ':folder/:name/index.md',
  },
  vite: {
    publicDir: false,
    plugins: [
      {
        name: 'site-links',
        enforce: 'pre',
        transform(code, id) {
          if (!id.endsWith('.md')) return undefined;
          return code.replace(
            /\]\((?!https?:|#|\/)([^)\s]+)\)/g,
            (_, link) => `](${siteLink(link, path.dirname(id))})`,
          );
        },
      },
    ],
  },
  themeConfig: {
    search: { provider: 'local' },
    socialLinks: [{ icon: 'github', link: REPOSITORY }],
    nav: [
      { text: 'Guide', link: '/docs/quickstart' },
      { text: 'Packages', link: '/packages/flamingo/' },
      { text: 'API', link: '/api/index.html', target: '_self' },
    ],
    sidebar: [
      {
        text: 'Guide',
        items: [
          { text: 'Introduction', link: '/' },
          { text: 'Quickstart', link: '/docs/quickstart' },
          { text: 'Train on your own data', link: '/docs/your-own-data' },
          { text: 'From web pages to training data', link: '/docs/web-pages' },
          { text: 'Bring your own language model', link: '/docs/bring-your-own-llm' },
          { text: 'Train from a Hugging Face folder', link: '/docs/hugging-face' },
          { text: 'In the browser', link: '/docs/browser' },
          { text: 'Performance', link: '/docs/performance' },
          { text: 'The flamingo command', link: '/apps/trainer/' },
        ],
      },
      { text: 'Packages', items: packages.map((name) => ({ text: name, link: `/packages/${name}/` })) },
      { text: 'Contributing', link: '/CONTRIBUTING' },
    ],
  },
});
