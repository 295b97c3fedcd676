import js from '@eslint/js';
import tseslint from 'typescript-eslint';
import { layers } from './scripts/lint/layers.js';

export default tseslint.config(
  { ignores: ['**/dist/', '.nx/', '.cache/', 'runs/', 'coverage/'] },
  js.configs.recommended,
  tseslint.configs.recommended,
  {
    rules: {
      eqeqeq: ['error', 'always', { null: 'ignore' }],
      'no-warning-comments': ['error', { terms: ['todo', 'fixme', 'xxx'] }],
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_', varsIgnorePattern: '^_' }],
    },
  },
  {
    // Import rules between packages; scripts and benchmarks may import any package by its name.
    files: ['{packages,apps}/*/{src,test}/**', 'scripts/**'],
    plugins: { workspace: { rules: { layers } } },
    rules: { 'workspace/layers': 'error' },
  },
  {
    // TypeScript checks globals itself.
    files: ['**/*.ts'],
    rules: { 'no-undef': 'off' },
  },
  {
    files: ['**/*.{js,mjs}'],
    languageOptions: {
      globals: {
        console: 'readonly',
        process: 'readonly',
        URL: 'readonly',
        performance: 'readonly',
        fetch: 'readonly',
        Buffer: 'readonly',
        setTimeout: 'readonly',
        clearTimeout: 'readonly',
      },
    },
  },
  {
    // index.ts is the contract of a package: explicit named exports only.
    files: ['packages/*/src/**/*.ts', 'apps/*/src/**/*.ts'],
    rules: {
      'no-restricted-syntax': [
        'error',
        { selector: 'ExportDefaultDeclaration', message: 'Use named exports.' },
        { selector: 'ExportAllDeclaration', message: 'Name every export.' },
      ],
    },
  },
  {
    files: ['packages/*/src/**/*.ts'],
    ignores: ['**/*.test.ts'],
    rules: { 'no-console': 'error' },
  },
  {
    // Only the composition roots of the trainer, flamingo.ts and index.ts, and tests import the quickstart.
    files: ['apps/trainer/src/{config,cli,stages,data,eval,report}/**/*.ts'],
    ignores: ['**/*.test.ts'],
    rules: { 'no-restricted-imports': ['error', { patterns: [{ group: ['**/quickstart/**'] }] }] },
  },
);
